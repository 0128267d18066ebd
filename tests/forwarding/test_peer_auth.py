"""What a coordinator says in another's stead counts only if it is signed; what anybody else says of that kind is nothing."""

import grpc
import pytest
from muster.v1 import task_pb2

from coordinator.errors import Unavailable
from coordinator.rpc.peer_auth import MAX_KNOWN, PEER_KEYS, Forwarded, PeerAuth
from tests.support.pair import SECRET
from tests.support.refusals import refusal

GET = "/muster.v1.TaskService/GetTask"
LIST = "/muster.v1.AdminService/ListNamespaces"
NOW_MS = 1_800_000_000_000


def auth(me="a", *, secret=SECRET, ahead_ms=0):
    return PeerAuth(secret=secret, me=me, date_ms=lambda: NOW_MS + ahead_ms)


def signed(**options):
    return (("muster-namespace", "blue"), *auth(**options).sign(GET, namespace="blue", caller="ipv4:10.0.0.1:4711"))


class TestSignature:
    def test_what_is_said_is_believed(self):
        assert auth("b").check(GET, signed()) == Forwarded("a", "ipv4:10.0.0.1:4711")
        about_shards = auth().sign(LIST, namespace="", caller="x", shards=[9, 3])
        assert auth("b").check(LIST, about_shards) == Forwarded("a", "x", frozenset({3, 9}))

    @pytest.mark.parametrize("key", [*sorted(PEER_KEYS - {"muster-signature"}), "muster-namespace"])
    def test_nothing_of_it_can_be_changed(self, key):
        metadata = [(name, value) for name, value in signed() if name != key]
        for forged in (metadata, [*metadata, (key, "7")]):
            if key == "muster-shards" and forged is metadata:
                continue  # it wasn't there
            with pytest.raises(Unavailable, match="isn't signed") as refused:
                auth("b").check(GET, forged)
            assert refused.value.reason == "PEER_NOT_TRUSTED"

    def test_it_is_for_one_method(self):
        with pytest.raises(Unavailable, match="isn't signed"):
            auth("b").check("/muster.v1.TaskService/CancelTasks", signed())

    def test_another_deployments_is_none(self):
        with pytest.raises(Unavailable, match="isn't signed"):
            auth("b").check(GET, signed(secret=b"another"))

    @pytest.mark.parametrize("text", ["", "nonsense", "9e9 00", f"{NOW_MS} ", "-1 ünïcode"])
    def test_nonsense(self, text):
        metadata = [(key, text if key == "muster-signature" else value) for key, value in signed()]
        with pytest.raises(Unavailable):
            auth("b").check(GET, metadata)

    @pytest.mark.parametrize("ahead_ms,good", [(60_000, True), (-60_000, True), (60_001, False), (-60_001, False)])
    def test_it_is_good_for_a_minute(self, ahead_ms, good):
        if good:
            assert auth("b").check(GET, signed(ahead_ms=ahead_ms)) is not None
        else:
            with pytest.raises(Unavailable, match="more than a minute"):
                auth("b").check(GET, signed(ahead_ms=ahead_ms))

    def test_without_a_signature_nothing_is_believed(self):
        metadata = [(key, value) for key, value in signed() if key != "muster-signature"]
        assert auth("b").check(GET, metadata) is None


FORGED = (("muster-forwarded", "back"), ("muster-caller", "root"), ("muster-shards", "0"))


class TestOverTheWire:
    async def test_a_callers_claims_are_not_handed_on(self, front, raw):
        await front.channel.unary_unary(GET)(b"", metadata=FORGED)
        call = front.channel.stream_stream("/muster.v1.TaskService/Session")(metadata=FORGED)
        await call.write(b"x")
        await call.read()
        for each in raw.calls:
            received = list(each.metadata)
            assert [value for key, value in received if key == "muster-forwarded"] == ["front"]
            assert [value for key, value in received if key == "muster-shards"] == []
            (caller,) = [value for key, value in received if key == "muster-caller"]
            assert caller.startswith("ipv4:127.0.0.1:")
            assert dict(received)["muster-signature"]

    async def test_a_callers_claims_change_nothing(self, pair):
        """A call that pretends to be forwarded is forwarded all the same, and an owner treats it like any other."""
        await pair.back.submit("t")
        request = task_pb2.GetTaskRequest(task_id="t")
        assert (await pair.front.tasks.GetTask(request, metadata=FORGED)).task.task_id == "t"
        session = pair.back.tasks.Session(metadata=FORGED)
        assert not (await session.read()).welcome.owner_address
        session.cancel()

    async def test_a_wrong_signature_is_refused(self, pair):
        wrong = auth("back", secret=b"guessed").sign(GET, namespace="", caller="root")
        for side in (pair.front, pair.back):
            why = await refusal(side.tasks.GetTask(task_pb2.GetTaskRequest(task_id="t"), metadata=wrong))
            assert (why.code, why.reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_NOT_TRUSTED")
            stream = side.tasks.Session(metadata=auth("back").sign(GET, namespace="", caller="root"))  # of another method, and old
            assert (await refusal(stream)).reason == "PEER_NOT_TRUSTED"


class TestReuse:
    """Calls that are alike are signed and checked once, for a while."""

    @pytest.fixture
    def clock(self):
        class Clock:
            ms = NOW_MS

            def __call__(self):
                return self.ms

        return Clock()

    def test_for_ten_seconds(self, clock):
        signer = PeerAuth(secret=SECRET, me="a", date_ms=clock)
        first = signer.sign(GET, namespace="blue", caller="x")
        clock.ms += 9_999
        assert signer.sign(GET, namespace="blue", caller="x") == first
        for other in (signer.sign(LIST, namespace="blue", caller="x"), signer.sign(GET, namespace="red", caller="x")):
            assert other != first
        clock.ms += 1
        second = signer.sign(GET, namespace="blue", caller="x")
        assert second != first
        clock.ms -= 60_000  # the store's clock was put back
        assert signer.sign(GET, namespace="blue", caller="x") not in (first, second)

    def test_what_was_checked_gets_old_all_the_same(self, clock):
        checker = PeerAuth(secret=SECRET, me="b", date_ms=clock)
        assert checker.check(GET, signed()) is not None
        clock.ms += 60_001
        with pytest.raises(Unavailable, match="more than a minute"):
            checker.check(GET, signed())

    def test_not_more_than_a_thousand_are_kept(self, clock):
        signer, checker = (PeerAuth(secret=SECRET, me=name, date_ms=clock) for name in "ab")
        for number in range(3_000):
            checker.check(GET, signer.sign(GET, namespace="", caller=f"caller {number}"))
        assert len(signer._signed) <= MAX_KNOWN
        assert len(checker._checked) <= MAX_KNOWN
