"""How gRPC connections are set up, on both sides. TCP_NODELAY is always set by gRPC itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from baton.rpc.settings import ServiceSettings

Option = tuple[str, int | str]

MAX_MESSAGE_BYTES = 4 << 20
"""Largest message either way. Prompts, frames and pieces of blocks stay far below."""

# A peer that vanished without a word is found after 10 + 10 seconds, also when no call is open. Ten
# seconds for an answer because a process that computes on all cores may be late with its own.
_KEEPALIVE: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SIZES: tuple[Option, ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)
_SERVER: tuple[Option, ...] = (
    *_KEEPALIVE,
    *_SIZES,
    # Clients may ping as often as the options above make them.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
# A second process on the same port is a mistake, unless both say that it is not.
SERVER_OPTIONS: tuple[Option, ...] = (*_SERVER, ("grpc.so_reuseport", 0))
SHARED_SERVER_OPTIONS: tuple[Option, ...] = (*_SERVER, ("grpc.so_reuseport", 1))
CHANNEL_OPTIONS: tuple[Option, ...] = (
    *_KEEPALIVE,
    *_SIZES,
    # Workers come back within a second or two: look often.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Despite its name this bounds one attempt to connect, not the time between two.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Peers are reached directly: an http_proxy in the environment is not meant for them.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one process. With `ca`, both sides ask for a certificate signed by it."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @classmethod
    def of(cls, settings: ServiceSettings) -> TlsFiles | None:
        """The files named by the settings; None: plain text."""
        files = cls(settings.tls_cert, settings.tls_key, settings.tls_ca)
        return None if files == cls() else files

    def for_server(self) -> grpc.ServerCredentials | None:
        """What a server shows; None without a certificate of its own."""
        cert, key, ca = map(_read, (self.cert, self.key, self.ca))
        if cert is None or key is None:
            return None
        return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=ca is not None)

    def for_channel(self) -> grpc.ChannelCredentials:
        """What a client shows and whom it trusts."""
        cert, key, ca = map(_read, (self.cert, self.key, self.ca))
        return grpc.ssl_channel_credentials(ca, key, cert)


def open_channel(
    address: str, tls: TlsFiles | None = None, *, has_own_connection: bool = False
) -> grpc.aio.Channel:
    """A channel to a process of ours; connects when first used, and again whenever it must.

    Channels to one address share a connection unless `has_own_connection`: bytes of blocks take
    one of their own, so that control frames never wait behind them.
    """
    options: list[Option] = list(CHANNEL_OPTIONS)
    if has_own_connection:
        options.append(("grpc.use_local_subchannel_pool", 1))
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, tls.for_channel(), options=options)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
