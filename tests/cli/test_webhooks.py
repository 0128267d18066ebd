"""`muster webhooks`, and `muster submit --webhook`."""

import base64
import json

from muster.v1 import admin_pb2, common_pb2, policy_pb2

from agent_node import RefusedError

URL = "https://example.com/hook"
SECRET = "whsec_" + "a" * 32
GIVEN_UP, PENDING = admin_pb2.WEBHOOK_DELIVERY_STATE_GIVEN_UP, admin_pb2.WEBHOOK_DELIVERY_STATE_PENDING


def policy(**fields):
    return policy_pb2.Policy(webhook=policy_pb2.WebhookPolicy(**fields))


def echo(client):
    """Set policies come back as the coordinator shows them."""

    def answer(policies):
        shown = policy(url=policies[0].webhook.url, task_type=policies[0].webhook.task_type)
        shown.webhook.states.extend(policies[0].webhook.states)
        shown.webhook.secret_count = len(policies[0].webhook.secrets)
        return [shown]

    client.answers["set_policies"] = answer


def sent(client):
    _, (policies,), _ = client.calls[-1]
    return policies[0].webhook


def test_they_are_listed(muster, client):
    client.answers["policies"] = [
        policy(url=URL, secret_count=2, states=[common_pb2.TASK_STATE_FAILED]),
        policy(task_type="mail", secret_count=1),
    ]
    shown = muster("webhooks", "list", env={"COLUMNS": "200"}).stdout
    assert f"{URL}, failed, signed with 2 secrets" in shown
    assert "signs own webhooks only, every end, signed with 1 secret" in shown
    assert client.calls[-1] == ("policies", (policy_pb2.POLICY_KIND_WEBHOOK,), {})
    records = [json.loads(line) for line in muster("webhooks", "list", "--json").stdout.splitlines()]
    assert records[1]["webhook"]["task_type"] == "mail"
    client.answers["policies"] = []
    assert muster("webhooks", "list").stdout == "No webhooks.\n"


def test_a_new_one_gets_a_secret_that_is_shown_once(muster, client):
    echo(client)
    shown = muster("webhooks", "set", URL, "--type", "mail", "--state", "failed", "--state", "CANCELLED").stdout
    webhook = sent(client)
    assert (webhook.url, webhook.task_type) == (URL, "mail")
    assert list(webhook.states) == [common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED]
    (secret,) = webhook.secrets
    assert f"Secret, shown this once: {secret}\n" in shown
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    record = json.loads(muster("webhooks", "set", URL, "--json").stdout)
    assert record["secret"] == sent(client).secrets[0] != secret


def test_secrets_of_ones_own_are_not_repeated(muster, client):
    echo(client)
    result = muster("webhooks", "set", "--secret", SECRET, "--secret", SECRET)
    assert (sent(client).url, list(sent(client).secrets)) == ("", [SECRET, SECRET])
    assert "whsec_" not in result.stdout
    muster("webhooks", "set", URL, env={"MUSTER_WEBHOOK_SECRET": SECRET})
    assert list(sent(client).secrets) == [SECRET]
    muster("webhooks", "set", URL, "--unsigned")
    assert not sent(client).secrets


def test_what_cannot_be_is_told(muster, client):
    assert muster("webhooks", "set", URL, "--state", "running").exit_code == 2
    result = muster("webhooks", "set", URL, "--unsigned", "--secret", SECRET)
    assert (result.exit_code, "not both" in result.stderr) == (2, True)
    client.answers["set_policies"] = RefusedError("policies[0].webhook.url names no host", field="policies[0].webhook.url", reason="X")
    assert "names no host" in muster("webhooks", "set", URL).stderr


def test_one_is_deleted(muster, client):
    client.answers["delete_policies"] = [policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_WEBHOOK, key="mail")]
    assert muster("webhooks", "delete", "--type", "mail").stdout == "The webhook of type 'mail' is deleted.\n"
    assert client.calls[-1][1] == (client.answers["delete_policies"],)
    client.answers["delete_policies"] = []
    result = muster("webhooks", "delete")
    assert (result.exit_code, "no webhook of every type" in result.stderr) == (3, True)


def test_deliveries_are_shown_with_their_reasons(muster, client):
    rows = [
        admin_pb2.WebhookDelivery(number=7, task_id="t1", task_state=5, state=GIVEN_UP, origin="https://a:443", reason="it answered 410"),
        admin_pb2.WebhookDelivery(number=9, task_id="t2", task_state=4, state=PENDING, hook="", attempts=3, reason="it answered 500"),
    ]
    client.answers["webhook_deliveries"] = admin_pb2.ListWebhookDeliveriesResponse(deliveries=rows, pending=1, given_up=1)
    shown = muster("webhooks", "deliveries", env={"COLUMNS": "200"}).stdout
    for text in ("the task's own", "of every type", "given up", "it answered 410", "https://a:443", "1 wait, 1 given up."):
        assert text in shown
    assert client.calls[-1] == ("webhook_deliveries", (None,), {"limit": 100})
    muster("webhooks", "deliveries", "--given-up", "--limit", "5")
    assert client.calls[-1] == ("webhook_deliveries", (GIVEN_UP,), {"limit": 5})
    record = json.loads(muster("webhooks", "deliveries", "--pending", "--json").stdout.splitlines()[0])
    assert record["reason"] == "it answered 410"
    assert client.calls[-1][1] == (PENDING,)


def test_some_are_tried_again(muster, client):
    client.answers["retry_webhooks"] = 2
    assert muster("webhooks", "retry", "7", "9").stdout == "2 will be tried again.\n"
    assert client.calls[-1] == ("retry_webhooks", ([7, 9],), {"all_given_up": False})
    assert json.loads(muster("webhooks", "retry", "--given-up", "--json").stdout) == {"count": 2}
    client.answers["retry_webhooks"] = 0
    assert muster("webhooks", "retry", "7").exit_code == 3
    assert muster("webhooks", "retry", "--given-up").exit_code == 0
    assert muster("webhooks", "retry").exit_code == 2
    assert muster("webhooks", "retry", "7", "--given-up").exit_code == 2
