"""Directories that stand for containers: made by debootstrap, entered with chroot in mount namespaces of their own.

Needs root, debootstrap and a Debian mirror. Nothing here needs Docker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "ca-certificates,python3,python3-venv"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Root:
    """A root directory, its variables, its working directory and its user (``uid:gid``)."""

    path: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"
    user: str = "0:0"

    def run(self, command: list[str], *, extra: dict[str, str] | None = None) -> str:
        """Run to the end, and return standard output. Raises CalledProcessError."""
        whole = self.command(command, writable=True, extra=extra)
        return subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True).stdout

    def command(
        self,
        command: list[str],
        *,
        writable: bool,
        extra: dict[str, str] | None = None,
        mounts: dict[Path, str] | None = None,
    ) -> list[str]:
        """What starts ``command`` in here as the root's user, with the root's variables and ``extra``, without new
        privileges; the root is read-only unless ``writable``, /tmp fresh, ``mounts`` (paths here to paths in there)
        read-only.
        """
        root = self.path.resolve()
        steps = [f"mount --bind {root} {root}"]
        for source, target in (mounts or {}).items():
            steps += [f"mount --bind {source.resolve()} {root}{target}", f"mount -o remount,bind,ro {root}{target}"]
        if not writable:
            steps.append(f"mount -o remount,bind,ro {root}")
        steps += [
            f"mount -t tmpfs tmpfs {root}/tmp",
            f"mount --bind /dev {root}/dev",
            f"mount -t proc proc {root}/proc",
        ]
        uid, gid = self.user.split(":")
        drop = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"]
        if uid != "0":
            drop += ["--inh-caps=-all", "--bounding-set=-all"]
        variables = [f"{name}={value}" for name, value in {**self.environment, **(extra or {})}.items()]
        inside = ["/bin/sh", "-c", f'cd {self.workdir} && exec "$@"', "sh", *command]
        entered = ["chroot", str(root), "/usr/bin/env", "-i", *variables, *drop, *inside]
        return ["unshare", "--mount", "/bin/sh", "-ec", "; ".join([*steps, 'exec "$@"']), "sh", *entered]


def clean(path: Path) -> Root:
    """A minimal Debian of the release that the gateway's base image is made from, with a ``python`` and a ``pip`` in
    /usr/local as that image has them. One that is there already is taken as it is.
    """
    if (path / "usr/local/bin/wheel").exists():
        return Root(path)
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(path), MIRROR],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.copy("/etc/resolv.conf", path / "etc" / "resolv.conf")
    root = Root(path)
    root.run(["python3", "-m", "venv", "/usr/local"])
    root.run(["/usr/local/bin/pip", "install", "--quiet", "wheel"], extra=registry(root))
    return root


def copy(root: Root, path: Path) -> Root:
    """The same in another place; files are not shared."""
    subprocess.run(["cp", "--archive", "--reflink=auto", str(root.path), str(path)], check=True)
    return Root(path, dict(root.environment), root.workdir, root.user)


def registry(root: Root) -> dict[str, str]:
    """How this machine reaches its package registry (proxies, index, certificates), for commands that run in ``root``;
    the certificates' file is copied there.
    """
    names = ("PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY")
    found = {name: os.environ[name] for name in (*names, *(each.lower() for each in names)) if name in os.environ}
    for name in ("PIP_CERT", "SSL_CERT_FILE"):
        if name in found:
            shutil.copy(found[name], root.path / "etc" / "registry-ca.crt")
            found[name] = "/etc/registry-ca.crt"
    return found
