"""What counts as this machine, and settings that cannot work."""

from __future__ import annotations

import pytest

from penstock.api import ApiSettings
from penstock.api.settings import is_loopback_name
from penstock.core import ConfigError


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine(host):
    assert is_loopback_name(host)
    assert ApiSettings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.evil", "127.0.0.1.evil", "", "128.0.0.1"])
def test_other_machines(host):
    assert not is_loopback_name(host)


@pytest.mark.parametrize(
    "given", [{"workers": 0}, {"max_connections": 0}, {"grace_s": -1}, {"stall_s": 0}, {"ping_s": 0}]
)
def test_settings_that_cannot_work(given):
    with pytest.raises(ConfigError):
        ApiSettings(**given)
