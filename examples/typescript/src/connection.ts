// What the agent and the client share: where the coordinator is, and when to try again.
import { setTimeout as sleep } from "node:timers/promises";
import { credentials, Metadata, status, type StatusObject } from "@grpc/grpc-js";
import type { Duration } from "./gen/google/protobuf/duration.js";

export const ADDRESS = process.env.MUSTER_ADDRESS ?? "127.0.0.1:7450";

/** Travels with every call. */
export const metadata = new Metadata();
metadata.set("muster-namespace", process.env.MUSTER_NAMESPACE ?? "default");

/** A channel's own pauses between connects would come on top of ours, so they are short. Pings find out when nobody is there. */
export const channel = [
  credentials.createInsecure(),
  { "grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 500, "grpc.keepalive_time_ms": 20_000 },
] as const;

const LONGEST_PAUSE_MS = 5_000; // well below Welcome.session_grace, which is how long an agent may stay away
const PERMANENT = [
  status.ABORTED, // a newer session has the agent's name
  status.INVALID_ARGUMENT,
  status.NOT_FOUND, // no such namespace
  status.PERMISSION_DENIED,
  status.UNAUTHENTICATED,
  status.UNIMPLEMENTED,
];

/** After a stream's end: waits before the next one, the longer the more failed in a row. Throws where trying again can't help. */
export async function pause(end: StatusObject, failures: number): Promise<void> {
  if (PERMANENT.includes(end.code)) throw new Error(`${status[end.code]}: ${end.details}`);
  console.error(`stream ended, ${status[end.code]}: ${end.details}`);
  await sleep(Math.random() * Math.min(LONGEST_PAUSE_MS, 100 * 2 ** failures));
}

export function milliseconds(duration: Duration | undefined): number {
  return duration ? Number(duration.seconds) * 1_000 + duration.nanos / 1e6 : 0;
}
