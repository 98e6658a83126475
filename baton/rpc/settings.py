"""Settings of a process: a flag wins over an environment variable, which wins over the default."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, ValidationError
from pydantic import model_validator as validates_model
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict


def check_address(address: str) -> str:
    """The address itself if it reads `host:port`, `[v6]:port` or `unix:path`."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address
    host, _, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not is_bracketed):
        raise ValueError("an address reads host:port")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError("the port of an address is a number from 0 to 65535")
    return address


def _split_words(value: Any) -> Any:
    return tuple(word for word in value.split(",") if word) if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(check_address)]
"""`host:port`; port 0 picks a free one."""
OptionalAddress = Annotated[str, AfterValidator(lambda text: check_address(text) if text else "")]
"""`host:port`, or empty."""
Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
"""Several words: `--flag a,b` or `--flag a --flag b`; `a,b` in the environment."""
Addresses = Annotated[tuple[Address, ...], BeforeValidator(_split_words)]
"""Several addresses, written as `Words` are."""


class ServiceSettings(BaseSettings):
    """Settings that every process has. A service adds its own and sets `env_prefix`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        enable_decoding=False,  # tuples are comma-separated words, not JSON
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    listen: Address = "127.0.0.1:0"
    """Address to serve gRPC on, host:port; port 0 picks a free one."""
    advertise: str = ""
    """Address told to others, host or host:port; empty: the one listened on."""
    worker_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,128}$")] = ""
    """Name of this process, unique in the deployment; empty: made of service, host and port."""
    metrics_listen: OptionalAddress = ""
    """Address of the Prometheus endpoint; empty: none."""
    redis_url: str = ""
    """Redis to announce to, such as redis://127.0.0.1:6379; empty: none."""
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """How long running calls may take after SIGTERM, in seconds."""
    notice_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    """How long new calls are still taken after SIGTERM, for balancers to notice, in seconds."""
    log_format: Literal["auto", "terminal", "json"] = "auto"
    """How log lines look; auto: terminal when stderr is one, else json."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important level that is logged."""
    tls_cert: FilePath | None = None
    """Certificate chain (PEM) of this process; with a key, everything is served over TLS."""
    tls_key: FilePath | None = None
    """Private key (PEM) of the certificate."""
    tls_ca: FilePath | None = None
    """Certificate authority (PEM) that peers must be signed by, as servers and as clients."""
    check: bool = False
    """Validate the settings and exit."""

    @property
    def own_address(self) -> str:
        """Where the process's own server listens, alone."""
        return self.listen

    @validates_model(mode="after")
    def _has_whole_pair(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key come together or not at all")
        return self


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def load(
    settings_type: type[SettingsT], prog: str = "", argv: Sequence[str] | None = None
) -> SettingsT:
    """Settings from flags and environment. A bad value is a sentence on stderr and exit code 2."""
    prog = prog or _program()
    arguments = list(sys.argv[1:] if argv is None else argv)
    prefix = settings_type.model_config.get("env_prefix", "")
    parser = ArgumentParser(
        prog=prog,
        description=settings_type.__doc__,
        epilog=f"In the environment --listen is {prefix}LISTEN, and so on; a flag wins.",
        allow_abbrev=False,
    )
    flags: CliSettingsSource[ArgumentParser] = CliSettingsSource(settings_type, root_parser=parser)
    try:
        # An argument of pydantic-settings itself, which only its type checker plug-in would know.
        source: dict[str, Any] = {"_cli_settings_source": flags(args=arguments)}
        settings = settings_type(**source)
    except ValidationError as failure:
        for error in failure.errors():
            print(f"{prog}: {_sentence(settings_type, arguments, error)}", file=sys.stderr)
        sys.exit(2)
    if settings.check:
        print(f"{prog}: the settings are valid")
        sys.exit(0)
    return settings


def _program() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.endswith(".__main__"):
        return f"python -m {spec.parent}"
    return Path(sys.argv[0]).name


def _sentence(settings_type: type[ServiceSettings], arguments: list[str], error: Any) -> str:
    """Which flag or variable is wrong, its value, and what is allowed."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{message}."
    field = str(error["loc"][0])
    flag = f"--{field.replace('_', '-')}"
    variable = f"{settings_type.model_config.get('env_prefix', '')}{field}".upper()
    is_flag = any(word == flag or word.startswith(f"{flag}=") for word in arguments)
    source = variable if not is_flag and variable in os.environ else flag
    return f"{source} is {error['input']!r}: {message[:1].lower()}{message[1:]}."
