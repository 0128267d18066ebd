"""Answers who shares the store, and who owns which shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.v1 import admin_pb2

from coordinator import convert

if TYPE_CHECKING:
    from coordinator.cluster.cluster import Cluster
    from coordinator.cluster.ports import HeldShard, Member


def cluster_view(cluster: Cluster) -> admin_pb2.GetClusterResponse:
    """The coordinators that live and all shards, as the one that is asked last heard of them."""
    me = cluster.me
    others = [member for member in cluster.view.members if member.coordinator_id != me.coordinator_id]
    members = sorted([me, *others], key=lambda member: member.coordinator_id)
    newest: dict[int, tuple[Member, HeldShard]] = {}
    for member in members:
        for held in member.shards:
            if held.number not in newest or newest[held.number][1].epoch < held.epoch:
                newest[held.number] = (member, held)
    return admin_pb2.GetClusterResponse(
        coordinator_id=me.coordinator_id,
        coordinators=[_member_out(member, sum(owner is member for owner, _ in newest.values())) for member in members],
        shards=[_shard_out(number, newest.get(number)) for number in range(cluster.shards)],
    )


def _member_out(member: Member, shards: int) -> admin_pb2.ClusterCoordinator:
    return admin_pb2.ClusterCoordinator(
        coordinator_id=member.coordinator_id,
        address=member.address,
        instance_id=member.incarnation,
        host=member.host,
        start_time=convert.timestamp(member.start_ms),
        leaving=member.leaving,
        shards=shards,
    )


def _shard_out(number: int, owned: tuple[Member, HeldShard] | None) -> admin_pb2.ClusterShard:
    if owned is None:
        return admin_pb2.ClusterShard(number=number)
    member, held = owned
    return admin_pb2.ClusterShard(
        number=number,
        coordinator_id=member.coordinator_id,
        address=member.address,
        epoch=held.epoch,
        claim_time=convert.timestamp(held.since_ms),
        serving=held.serving,
        sequence=held.sequence,
        snapshot_sequence=held.snapshot_sequence,
    )
