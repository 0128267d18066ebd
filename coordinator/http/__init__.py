"""HTTP beside gRPC: what probes ask."""
