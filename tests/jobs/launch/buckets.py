"""A real server that speaks S3, with one bucket."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import launch_runs as runs
import pytest


@contextmanager
def new_bucket() -> Iterator[str]:
    """The URI of an empty bucket, with the environment that finds it."""
    import boto3

    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(runs.S3_PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runs.S3_ENVIRONMENT.items():
            patch.setenv(name, value)
        try:
            runs.wait_for(lambda: answers(runs.S3_ENVIRONMENT["AWS_ENDPOINT_URL"]), 30)
            boto3.client("s3").create_bucket(Bucket="largebatch")
            yield "s3://largebatch"
        finally:
            server.kill()
            server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False
