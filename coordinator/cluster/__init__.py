"""Several coordinators over one store: who owns which shard, and who is there. It must not know gRPC, nor which store it is."""
