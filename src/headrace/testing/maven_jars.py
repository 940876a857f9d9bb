"""Jars of a server for tests, fetched once from Maven Central.

Owns the caches `$XDG_CACHE_HOME/headrace/<name>/<version>/libs` (by default under `~/.cache`), and the search for Java.

- The versions are those of a pom beside this file, resolved by Maven.
- A folder is complete or absent: it is filled under another name and then renamed.
- Two processes that need it at once fetch it once (a file lock).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from headrace.errors import HeadraceError
from headrace.testing.server_process import file_lock

RESOLVE_TIMEOUT_S = 600.0
"""About 45 MB from Maven Central, on a slow line."""

JAVA_VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class MavenJars:
    """The jars of one server."""

    name: str
    """Of its cache, its pom and the version in that."""
    title: str
    error: type[HeadraceError]
    """That they cannot be had, or that no Java runs them."""
    address_variable: str
    """Names a running server instead."""
    java_version_min: int
    runs_source: bool = False
    """Its program is compiled as it starts: that takes a JDK."""

    def version(self) -> str:
        """The version of the server that the pom names."""
        found = re.search(rf"<{self.name}\.version>([^<]+)<", self._pom_text())
        assert found, f"{self._pom_name} names no {self.name}.version"
        return found.group(1)

    def cache_directory(self) -> Path:
        """Where everything of this version is kept."""
        root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(root) / "headrace" / self.name / self.version()

    def directory(self) -> Path:
        """The folder of jars; fetches them when it is not there yet."""
        libs = self.cache_directory() / "libs"
        if libs.is_dir():
            return libs
        libs.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(libs.parent / "lock"):
            if not libs.is_dir():
                self._fetch(libs)
        return libs

    def java_command(self) -> str:
        """Path of a Java that runs the server."""
        home = os.environ.get("JAVA_HOME")
        java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
        java = java or shutil.which("java")
        if java is None:
            raise self.error("no java on the PATH", cure=f"install Java {self.java_version_min} or newer")
        version = self._java_version(java)
        if version < self.java_version_min:
            raise self.error(
                f"{java} is Java {version}; {self.title} {self.version()} needs {self.java_version_min} or newer",
                cure="put a newer Java first on the PATH, or set JAVA_HOME",
            )
        if self.runs_source and not (Path(java).resolve().parent / "javac").exists():
            raise self.error(
                f"{java} has no compiler beside it, and {self.title} is started from source",
                cure=f"install a JDK (Debian: apt-get install openjdk-{self.java_version_min}-jdk-headless)",
            )
        return java

    def missing_programs(self) -> str:
        """Why the server cannot be started here; empty when it can."""
        try:
            self.check_programs()
        except self.error as error:
            return str(error)
        return ""

    def check_programs(self) -> None:
        """Raises `error` where the server cannot be started."""
        self.java_command()
        if not (self.cache_directory() / "libs").is_dir():
            self._maven_command()

    @property
    def _pom_name(self) -> str:
        return f"{self.name}-pom.xml"

    def _pom_text(self) -> str:
        return resources.files("headrace.testing").joinpath(self._pom_name).read_text(encoding="utf-8")

    def _java_version(self, java: str) -> int:
        output = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=JAVA_VERSION_TIMEOUT_S, check=False
        )
        found = re.search(r'version "(\d+)', output.stderr + output.stdout)
        if found is None:
            raise self.error(f"{java} -version does not tell its version", cure="check the installation of Java")
        return int(found.group(1))

    def _maven_command(self) -> str:
        maven = shutil.which("mvn")
        if maven is None:
            raise self.error(
                f"no mvn on the PATH; it fetches the jars of {self.title} {self.version()} once, from Maven Central",
                cure=f"install Maven, or set {self.address_variable} to the address of a running server",
            )
        return maven

    def _fetch(self, libs: Path) -> None:
        maven = self._maven_command()
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=libs.parent) as scratch:
            pom = Path(scratch) / "pom.xml"
            pom.write_text(self._pom_text(), encoding="utf-8")
            partial = Path(scratch) / "libs"
            copy = ["dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
            command = [maven, "-q", "-B", "-f", str(pom), *copy]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=RESOLVE_TIMEOUT_S, check=False)
            except subprocess.TimeoutExpired as error:
                told = f"mvn did not fetch the jars of {self.title} within {RESOLVE_TIMEOUT_S:.0f} s"
                raise self.error(told) from error
            if done.returncode != 0 or not partial.is_dir():
                reason = (done.stdout + done.stderr).strip()[-1000:]
                told = f"mvn could not fetch the jars of {self.title}: {reason}"
                raise self.error(told, cure="check the way to Maven Central")
            partial.rename(libs)
