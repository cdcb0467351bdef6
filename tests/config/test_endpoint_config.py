"""The address of a server, read before anything is sent there."""

import pytest
from pydantic import ValidationError

from ragkit.config.blocks import Endpoint


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8000/v1", "https://api.example.org/v1/", "http://127.0.0.1", "http://[::1]:80",
     None],
)  # fmt: skip
def test_an_address_is_taken_as_it_stands(url: str | None) -> None:
    assert Endpoint(model="m", base_url=url).base_url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000/v1", "does not begin with http:// or https://"),
        ("http://localhost:port/v1", "Port could not be cast to integer value as 'port'"),
        ("http://localhost:99999/v1", "Port out of range"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http:///v1", "is no address: http://HOST:PORT/v1 or https://... is wanted"),
        ("ftp://localhost/v1", "does not begin with http:// or https://"),
        ("http://local host/v1", "is wanted"),
        ("http://localhost/v1\n", "is wanted"),
        ("", "does not begin with http:// or https://"),
    ],
)
def test_what_is_no_address_is_told_with_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Endpoint(model="m", base_url=url)
    (error,) = caught.value.errors()
    assert error["loc"] == ("base_url",)
    assert f"{url!r} " in error["msg"] and said in error["msg"]
