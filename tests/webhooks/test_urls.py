"""Which URLs and addresses webhooks may have."""

import pytest

from coordinator.errors import InvalidRequest
from coordinator.webhook_urls import MAX_URL_CHARS, WebhookRules, check_url, origin_of, parse_network

PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
REFUSED = [
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",  # metadata of most clouds
    "100.100.100.200",  # of another
    "168.63.129.16",  # of a third
    "fd00:ec2::254",  # and over IPv6
    "100.64.1.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "ff02::1",
    "ff0e::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "::127.0.0.1",
    "::8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::1",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "100::1",
    "2130706433",
    "0x7f.1",
    "017700000001",
    "example.com",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address):
    assert WebhookRules().refuses(address) is None


@pytest.mark.parametrize("address", REFUSED)
def test_all_others_may_not(address):
    assert WebhookRules().refuses(address)


def test_what_is_allowed_by_name_may_be_reached():
    rules = WebhookRules(allowed=(parse_network("10.0.0.0/8"), parse_network("fd00::/8")))
    assert [rules.refuses(one) for one in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1")] == [None, None, None]
    assert rules.refuses("11.1.2.3") is None  # public
    assert rules.refuses("127.0.0.1")
    assert rules.refuses("fe80::1")
    # A public network's address that embeds a private one is not what was allowed.
    assert WebhookRules(allowed=(parse_network("2002::/16"),)).refuses("2002:7f00:1::1")


def test_a_network_that_is_none():
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8 is no network"):
        parse_network("10.0.0.1/8")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "http://example.com:8080/hook?a=b%20c",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:8443/x",
        "https://xn--bcher-kva.example/",
        "https://3com.example/",
        "https://0x.example/",
    ],
)
def test_urls_that_are_taken(url):
    assert check_url(url, WebhookRules(), "webhook.url") == url


@pytest.mark.parametrize(
    "url, says",
    [
        ("", "scheme"),
        ("example.com/hook", "scheme"),
        ("ftp://example.com/", "scheme 'ftp': use https or http"),
        ("file:///etc/passwd", "scheme"),
        ("https:///path", "names no host"),
        ("https://user:secret@example.com/", "user name or a password"),
        ("https://user@example.com/", "user name or a password"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com:99999/", "can't be read as a URL"),
        ("https://example.com:x/", "can't be read as a URL"),
        ("https://[::1/", "can't be read as a URL"),
        ("http://example.com:25/", "port 25"),
        ("http://example.com:0/", "port 0"),
        ("https://bücher.example/", "doesn't belong into a URL"),
        ("https://example.com/a b", "doesn't belong into a URL"),
        ("https://example.com\\@127.0.0.1/", "doesn't belong into a URL"),
        ("https://example.com/\r\nX: y", "doesn't belong into a URL"),
        ("https://example.com/" + "x" * MAX_URL_CHARS, "at most 2048"),
        ("http://127.0.0.1:8080/", "isn't a public address"),
        ("http://[::1]:8080/", "isn't a public address"),
        ("http://[::ffff:10.0.0.1]/", "isn't a public address"),
        ("http://2130706433/", "no address"),
        ("http://127.1/", "no address"),
        ("http://127.0.0.1./", "no address"),
        ("http://0x7f.0.0.0x1/", "no address"),
        ("http://0177.0.0.1/", "no address"),
        ("http://169.254.169.254/latest/meta-data/", "--webhook-allow"),
    ],
)
def test_urls_that_are_refused_say_why(url, says):
    with pytest.raises(InvalidRequest, match=r"webhook\.url") as refused:
        check_url(url, WebhookRules(), "webhook.url")
    assert says in refused.value.message
    assert "secret" not in refused.value.message
    assert refused.value.reason == "INVALID_WEBHOOK"


def test_an_address_that_is_allowed_is_taken():
    rules = WebhookRules(allowed=(parse_network("127.0.0.1"),))
    assert check_url("http://127.0.0.1:8080/", rules, "webhook.url")


def test_only_the_origin_is_shown():
    assert origin_of("https://example.com/hook?token=secret") == "https://example.com:443"
    assert origin_of("http://[2606:4700::1111]:8080/secret") == "http://[2606:4700::1111]:8080"
