"""`muster cluster`, on a scripted client."""

import json

from muster.v1 import admin_pb2


def view():
    answer = admin_pb2.GetClusterResponse(
        coordinator_id="b",
        coordinators=[
            admin_pb2.ClusterCoordinator(coordinator_id="a", address="10.0.0.1:7450", host="one", leaving=True, shards=1),
            admin_pb2.ClusterCoordinator(coordinator_id="b", address="10.0.0.2:7450", host="two", shards=1),
        ],
        shards=[
            admin_pb2.ClusterShard(number=0, coordinator_id="a", epoch=1_700_000_000_123, serving=True, sequence=42, snapshot_sequence=40),
            admin_pb2.ClusterShard(number=1, coordinator_id="b", epoch=1_700_000_000_456),
            admin_pb2.ClusterShard(number=2),
        ],
    )
    answer.shards[0].claim_time.FromSeconds(1_700_000_000)
    return answer


def test_it_shows_who_owns_what(muster, client):
    client.answers["cluster"] = view()
    shown = muster("cluster").stdout
    assert "leaving" in next(line for line in shown.splitlines() if "10.0.0.1:7450" in line)
    assert "b *" in shown
    rows = [line.split() for line in shown.splitlines() if line.strip() and line.split()[0].isdecimal()]
    assert rows[0][:3] == ["0", "a", "serving"]
    assert rows[0][-3:] == ["1700000000123", "42", "40"]
    assert rows[1][:3] == ["1", "b", "recovering"]
    assert rows[2][:3] == ["2", "–", "nobody's"]


def test_as_json_it_is_the_answer(muster, client):
    client.answers["cluster"] = view()
    record = json.loads(muster("cluster", "--json").stdout)
    assert record["coordinator_id"] == "b"
    assert [one["address"] for one in record["coordinators"]] == ["10.0.0.1:7450", "10.0.0.2:7450"]
    assert record["shards"][0]["snapshot_sequence"] == "40"
