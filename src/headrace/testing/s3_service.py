"""Where tests find a store that speaks S3's protocol.

Owns the order of the search:
1. `HEADRACE_TEST_S3`: the URL of a store, with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` of an account in it;
2. a stand-in of this machine: `moto` in a process of its own, which keeps everything in memory.

- The process ends with the context, and with its owner when that is killed.
- The stand-in asks nobody for rights, unless `S3Store.demand_keys` was called.
- No store is a failure where `CI` is `true`, and a reason to skip elsewhere (`S3Missing` tells why).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from headrace.errors import Fault, HeadraceError
from headrace.testing.server_process import POLL_S, free_ports, guard

URL_VARIABLE = "HEADRACE_TEST_S3"
REGION = "us-east-1"
START_TIMEOUT_S = 60.0


class S3Missing(HeadraceError):
    """No store can be had here."""

    code = "testing.s3_missing"
    fault = Fault.STOP


@dataclass(frozen=True, slots=True)
class S3Store:
    """A store that answers."""

    endpoint: str
    access_key_id: str
    secret_access_key: str

    def client(self) -> Any:
        """A `boto3` client."""
        boto3: Any = importlib.import_module("boto3")
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
        )

    def new_bucket(self) -> str:
        """The name of an empty bucket that nobody else has."""
        name = f"headrace-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=name)
        return name

    def demand_keys(self) -> None:
        """From now on the stand-in refuses whoever has no account in it, and nobody has one."""
        headers = {"Content-Type": "text/plain"}  # moto reads what urllib would call a form as a form.
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", data=b"0", headers=headers)
        urllib.request.urlopen(request, timeout=START_TIMEOUT_S).close()


@contextmanager
def s3_service() -> Iterator[S3Store]:
    """A store while the context lasts. Raises `S3Missing`."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        yield S3Store(url, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    else:
        with s3_stand_in() as store:
            yield store


@contextmanager
def s3_stand_in() -> Iterator[S3Store]:
    """A store of the caller's own. Raises `S3Missing`."""
    if importlib.util.find_spec("moto") is None:
        raise S3Missing(f"no S3: {URL_VARIABLE} is not set, and moto is not installed", cure="pip install 'moto[s3]'")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    guard(process.pid, os.getpid(), signal.SIGKILL, whole_group=False)
    try:
        _wait(port, process)
        yield S3Store(f"http://127.0.0.1:{port}", "stand-in", "stand-in")
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise S3Missing(f"moto ended with code {process.returncode}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), START_TIMEOUT_S):
            return
        time.sleep(POLL_S)
    raise S3Missing(f"moto did not answer within {START_TIMEOUT_S:.0f} s")
