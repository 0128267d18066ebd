"""Signatures against the specification's own example, and secrets that are none."""

import pytest

from coordinator.webhook_signing import key_of, sign


def test_the_example_of_standard_webhooks():
    signature = sign(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "secret, says",
    [("hello", "begin with whsec_"), ("whsec_§", "base64"), ("whsec_aGVsbG8=", "5 bytes"), ("whsec_" + "YWFh" * 30, "90 bytes")],
)
def test_a_secret_that_is_none_is_not_repeated(secret, says):
    with pytest.raises(ValueError, match="random bytes in base64") as refused:
        key_of(secret)
    assert says in str(refused.value)
    assert secret not in str(refused.value)
