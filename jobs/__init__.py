"""What runs: one training job.

The engine needs torch, numpy and pydantic alone; torchvision, scikit-learn and MLflow are imported only by the function that cannot do without them.
"""
