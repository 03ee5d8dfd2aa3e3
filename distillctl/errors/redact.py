"""Users and passwords in addresses: taken out of what is stored or shown."""

from __future__ import annotations

import re

MASK = "***"
"""Stands for the user and password of an address."""
PLACEHOLDER = "USER:PASSWORD"
"""Stands for them where it is said how to give them."""
_LOGIN = re.compile(rf"(://|\bhttps?:/)(?!{PLACEHOLDER}@)[^\s/?#]*@")
"""A path object makes one slash of two."""


def without_logins(text: str) -> str:
    """`text` with the `user:password` of every `scheme://user:password@host` masked."""
    return _LOGIN.sub(rf"\1{MASK}@", text) if "@" in text else text


def split_login(url: str) -> tuple[str, str | None]:
    """A teacher's address without its user and password, and these; None where it has none or masked ones.

    Raises ValueError, which does not repeat the address, for one that is not like `http://HOST:PORT` or
    `unix:/PATH`.
    """
    if url.startswith("unix:"):
        return url, None
    scheme, separator, rest = url.partition("://")
    if scheme.lower() not in ("http", "https") or not separator:
        raise ValueError("is not like http://HOST:PORT")
    login, at, host = rest.rpartition("@")
    if any(char in login for char in "/?#") or any(char.isspace() for char in login):
        raise ValueError("has / ? # or a blank in its user and password: write it as %2F %3F %23 %20")
    if "?" in host or "#" in host:
        raise ValueError(
            "has a ? or #: an API key is given in the environment variable DISTILLCTL_TEACHER_API_KEY"
        )
    if not at or not login:
        return f"{scheme}://{host}", None
    return f"{scheme}://{MASK}@{host}", None if login == MASK else login
