"""What runs: one training job.

    spec -> plan -> job -> optimizer step -> journal -> summary

Imports inside this package run one way: `launch -> job -> engine -> plan, records -> spec -> errors`.
The engine needs torch, numpy and pydantic alone; torchvision, scikit-learn and MLflow are imported
only by the function that cannot do without them.
"""
