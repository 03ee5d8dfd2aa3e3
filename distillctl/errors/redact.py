"""Removing the user names and passwords of addresses from everything that is stored or shown."""

from __future__ import annotations

import re

MASK = "***"
"""Replaces the user and password of an address."""
PLACEHOLDER = "USER:PASSWORD"
"""Stands for them in text that explains how to give them."""
_LOGIN = re.compile(rf"(://|\bhttps?:/)(?!{PLACEHOLDER}@)[^\s/?#]*@")
"""One slash is enough: a `Path` made from an address merges the two."""


def without_logins(text: str) -> str:
    """`text` with the `user:password` of every `scheme://user:password@host` masked."""
    return _LOGIN.sub(rf"\1{MASK}@", text) if "@" in text else text


def split_login(url: str) -> tuple[str, str | None]:
    """Split a teacher's address into the address with its login masked, and the login `user:password`.

    The login is None where the address has none or a masked one. Raises ValueError, which does not repeat the
    address, unless the address looks like `http://HOST:PORT` or `unix:/PATH`.
    """
    if url.startswith("unix:"):
        return url, None
    scheme, separator, rest = url.partition("://")
    if scheme.lower() not in ("http", "https") or not separator:
        raise ValueError("is not like http://HOST:PORT")
    login, at, host = rest.rpartition("@")
    if any(char in login for char in "/?#") or any(char.isspace() for char in login):
        raise ValueError("has / ? # or a space in its user and password: write it as %2F %3F %23 %20")
    if "?" in host or "#" in host:
        raise ValueError(
            "has a ? or #: an API key is given in the environment variable DISTILLCTL_TEACHER_API_KEY"
        )
    if not at or not login:
        return f"{scheme}://{host}", None
    return f"{scheme}://{MASK}@{host}", None if login == MASK else login
