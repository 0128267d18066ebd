"""The sender against receivers that misbehave, and names that lead where they must not."""

import ipaddress
import socket
import tracemalloc
from contextlib import asynccontextmanager

import pytest

from coordinator.ports import WebhookVerdict
from coordinator.webhook_urls import WebhookRules
from coordinator.webhooks.sender import HttpWebhookSender
from tests.support.ports import free_port
from tests.support.receiver import (
    SECRET,
    answers,
    breaks_off,
    drips,
    endless_head,
    hangs,
    never_ends,
    receiving,
    says_100,
    self_signed,
    talks_nonsense,
)

OTHER_SECRET = "whsec_" + "b" * 40
LOOPBACK = WebhookRules(allowed=(ipaddress.ip_network("127.0.0.0/8"),))


@asynccontextmanager
async def sending(*, rules=LOOPBACK, total_s=5.0, lookup=None):
    sender = HttpWebhookSender(rules=rules, connect_s=total_s, total_s=total_s, user_agent="Muster/test", lookup=lookup)

    async def send(url, secrets=(SECRET,)):
        return await sender.send(url=url, secrets=secrets, event_id="evt_1", date_s=1_700_000_000, body=b'{"a":1}')

    try:
        yield send
    finally:
        await sender.close()


def resolves_to(*addresses):
    """Each look-up answers the next address; the last one stays."""
    left = list(addresses)

    def lookup(host, port):
        address = left.pop(0) if len(left) > 1 else left[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]

    return lookup


async def test_a_request_is_what_standard_webhooks_asks_for():
    async with receiving() as receiver, sending() as send:
        answer = await send(receiver.url, (SECRET, OTHER_SECRET))
    assert answer.verdict is WebhookVerdict.DELIVERED
    (request,) = receiver.requests
    assert request.path == "/hook?token=hidden-in-the-url"
    assert (request.body, request.headers["content-type"]) == (b'{"a":1}', "application/json")
    assert (request.event_id, request.headers["webhook-timestamp"]) == ("evt_1", "1700000000")
    assert request.is_signed_with(SECRET)
    assert request.is_signed_with(OTHER_SECRET)
    assert not request.is_signed_with("whsec_" + "c" * 40)
    assert request.headers["user-agent"] == "Muster/test"


async def test_without_a_secret_there_is_no_signature():
    async with receiving() as receiver, sending() as send:
        await send(receiver.url, ())
    assert "webhook-signature" not in receiver.requests[0].headers


@pytest.mark.parametrize(
    "behaviour, verdict, says",
    [
        (answers(200), WebhookVerdict.DELIVERED, "200"),
        (answers(500), WebhookVerdict.FAILED, "500"),
        (answers(404), WebhookVerdict.FAILED, "404"),
        (answers(410), WebhookVerdict.GONE, "410"),
        (answers(302, "Location: http://10.0.0.1/"), WebhookVerdict.FAILED, "a redirect: they aren't followed"),
        (breaks_off, WebhookVerdict.FAILED, "broke off"),
        (talks_nonsense, WebhookVerdict.FAILED, "speaks no HTTP"),
        (endless_head, WebhookVerdict.FAILED, "broke off, or speaks no HTTP"),
        (says_100, WebhookVerdict.FAILED, "broke off, or speaks no HTTP"),
        (never_ends, WebhookVerdict.DELIVERED, "200"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_each_answer_has_its_verdict(behaviour, verdict, says):
    async with receiving(behaviour) as receiver, sending() as send:
        tracemalloc.start()
        try:
            answer = await send(receiver.url)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (answer.verdict, says in answer.reason) == (verdict, True), answer
        assert "hidden-in-the-url" not in answer.reason
        assert peak < 4 * 1024 * 1024  # whatever comes
        assert receiver.connections == 1  # no redirect was followed, and nothing was sent twice


@pytest.mark.parametrize("behaviour", [hangs, drips])
async def test_who_is_slow_is_left(behaviour):
    async with receiving(behaviour) as receiver, sending(total_s=0.2) as send:
        answer = await send(receiver.url)
    assert answer.verdict is WebhookVerdict.UNREACHABLE
    assert "no answer in time" in answer.reason


async def test_nobody_listens():
    async with sending() as send:
        answer = await send(f"http://127.0.0.1:{free_port()}/")
    assert answer.verdict is WebhookVerdict.UNREACHABLE


async def test_a_name_that_cannot_be_resolved():
    def lookup(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "unknown name")

    async with sending(lookup=lookup) as send:
        answer = await send("http://nowhere.example/")
    assert answer.verdict is WebhookVerdict.UNREACHABLE
    assert "unknown name" in answer.reason


async def test_a_certificate_that_nobody_vouches_for(tmp_path):
    async with receiving(tls=self_signed(tmp_path)) as receiver, sending() as send:
        answer = await send(f"https://127.0.0.1:{receiver.port}/")
        assert not receiver.requests
    assert answer.verdict is WebhookVerdict.UNREACHABLE
    assert "certificate can't be trusted" in answer.reason


async def test_a_name_that_leads_to_a_private_address_is_refused():
    async with receiving() as receiver, sending(rules=WebhookRules(), lookup=resolves_to("127.0.0.1")) as send:
        answer = await send(f"http://harmless.example:{receiver.port}/")
        assert receiver.connections == 0
    assert answer.verdict is WebhookVerdict.UNREACHABLE
    assert "127.0.0.1 isn't a public address" in answer.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"])
async def test_no_spelling_gets_through(host):
    """Past every check at submit: what counts is the address that the socket gets."""
    async with receiving() as receiver, sending(rules=WebhookRules()) as send:
        answer = await send(f"http://{host}:{receiver.port}/")
        assert receiver.connections == 0
    assert answer.verdict is not WebhookVerdict.DELIVERED


async def test_a_name_that_changes_between_attempts_is_judged_each_time():
    """DNS rebinding: the first address may be reached, the second may not."""
    rules = WebhookRules(allowed=(ipaddress.ip_network("127.0.0.1/32"),))
    async with receiving() as receiver, sending(rules=rules, lookup=resolves_to("127.0.0.1", "127.0.0.2")) as send:
        url = f"http://rebinding.example:{receiver.port}/"
        assert (await send(url)).verdict is WebhookVerdict.DELIVERED
        second = await send(url)
        assert "127.0.0.2 isn't a public address" in second.reason
        assert receiver.connections == 1


async def test_of_several_addresses_the_private_ones_are_left_out():
    def lookup(host, port):
        return [entry for address in ("10.0.0.1", "127.0.0.1") for entry in resolves_to(address)(host, port)]

    async with receiving() as receiver, sending(lookup=lookup) as send:
        assert (await send(f"http://both.example:{receiver.port}/")).verdict is WebhookVerdict.DELIVERED


async def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    async with receiving() as proxy, receiving() as receiver, sending() as send:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await send(receiver.url)).verdict is WebhookVerdict.DELIVERED
        assert (proxy.connections, receiver.connections) == (0, 1)


@pytest.mark.parametrize(
    "headers, seconds",
    [
        (["Retry-After: 120"], 120),
        (["Retry-After: 99999999999999"], 86_400),
        (["Retry-After: soon"], None),
        (["Retry-After: -5"], None),
        (["Date: Tue, 14 Nov 2023 22:13:20 GMT", "Retry-After: Tue, 14 Nov 2023 22:14:20 GMT"], 60),
        (["Retry-After: Tue, 14 Nov 2023 22:14:20 GMT"], None),
        ([], None),
    ],
)
async def test_retry_after(headers, seconds):
    async with receiving(answers(429, *headers)) as receiver, sending() as send:
        assert (await send(receiver.url)).retry_after_s == seconds
