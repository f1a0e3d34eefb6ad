"""HOST:PORT texts."""


def host_port(host: str, port: int) -> str:
    """The address of a port; an IPv6 host gets the brackets of RFC 3986."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
