"""Models of libraries, built by their names: torchvision, transformers, timm."""
