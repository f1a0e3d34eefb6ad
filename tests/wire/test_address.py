import pytest

from triptych.wire.address import host_port


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:80"), ("node", "node:80"), ("::1", "[::1]:80"), ("fe80::2", "[fe80::2]:80")],
)
def test_an_ipv6_host_gets_brackets(host: str, address: str) -> None:
    assert host_port(host, 80) == address
