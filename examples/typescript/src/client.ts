// A client of Muster: submits tasks on a session, waits until each is taken and until each has ended, and prints what came of it.
// All it knows comes from protos/muster/v1/task.proto. Usage: node dist/client.js TYPE PAYLOAD...
import { randomUUID } from "node:crypto";
import type { ClientDuplexStream, StatusObject } from "@grpc/grpc-js";
import { ADDRESS, channel, metadata, milliseconds, pause } from "./connection.js";
import { type Refusal, TaskSpec, TaskState } from "./gen/muster/v1/common.js";
import * as wire from "./gen/muster/v1/task.js";

const MAX_BATCH_TASKS = 1_000;
const MAX_BATCH_BYTES = 3_000_000; // well below 3.5 MiB

/** A task on its way: sent again until it is acknowledged, attached to again until its result is here. */
interface Pending {
  readonly spec: TaskSpec;
  acknowledged: boolean;
}

class Client {
  readonly #pending = new Map<string, Pending>();
  readonly #batches = new Map<bigint, TaskSpec[]>(); // submitted on this stream, and not acknowledged
  #call?: ClientDuplexStream<wire.SessionRequest, wire.SessionResponse>;
  #failures = 0; // streams in a row that ended before their welcome
  #batchId = 0n;

  /** Has tasks done, over as many sessions as it takes. Calls `ended` once for each, with its result or why there is none. */
  async run(specs: TaskSpec[], ended: (spec: TaskSpec, result: wire.TaskResult | Refusal) => void): Promise<void> {
    for (const spec of specs) this.#pending.set(spec.taskId, { spec, acknowledged: false });
    while (this.#pending.size > 0) {
      const end = await this.#session((taskId, result) => {
        const spec = this.#pending.get(taskId)?.spec;
        if (spec && this.#pending.delete(taskId)) ended(spec, result);
        if (this.#pending.size === 0) this.#call?.end();
      });
      if (this.#pending.size > 0) await pause(end, this.#failures++);
    }
  }

  /** One stream, from its welcome to the status that ends it. */
  async #session(ended: (taskId: string, result: wire.TaskResult | Refusal) => void): Promise<StatusObject> {
    const client = new wire.TaskServiceClient(ADDRESS, ...channel);
    const call = (this.#call = client.session(metadata));
    call.on("data", (message: wire.SessionResponse) => {
      if (message.welcome) this.#welcomed();
      for (const ack of message.submitAcks) this.#acknowledged(ack, ended);
      for (const result of message.results) ended(result.taskId, result.refusal ?? result);
    });
    call.on("error", () => {}); // the status says it all
    const end = await new Promise<StatusObject>((resolve) => call.on("status", resolve));
    this.#batches.clear();
    this.#call = undefined;
    client.close();
    return end;
  }

  /** A session knows nothing of the one before: submits what was not acknowledged, and attaches to what was. */
  #welcomed(): void {
    this.#failures = 0;
    const all = [...this.#pending.values()];
    this.#submit(all.filter(({ acknowledged }) => !acknowledged).map(({ spec }) => spec));
    const attached = all.filter(({ acknowledged }) => acknowledged).map(({ spec }) => spec.taskId);
    while (attached.length > 0) this.#send({ attachTaskIds: attached.splice(0, MAX_BATCH_TASKS) });
  }

  /** Sends tasks in batches that are bounded by count and by bytes. */
  #submit(specs: TaskSpec[]): void {
    let batch: TaskSpec[] = [];
    let bytes = 0;
    for (const spec of specs) {
      const size = TaskSpec.encode(spec).finish().length;
      if (batch.length === MAX_BATCH_TASKS || (batch.length > 0 && bytes + size > MAX_BATCH_BYTES)) {
        this.#sendBatch(batch);
        [batch, bytes] = [[], 0];
      }
      batch.push(spec);
      bytes += size;
    }
    if (batch.length > 0) this.#sendBatch(batch);
  }

  #sendBatch(tasks: TaskSpec[]): void {
    this.#batches.set(++this.#batchId, tasks);
    this.#send({ submit: { batchId: this.#batchId, tasks } }); // not first_send: ids are UUIDv4, and may be re-sent
  }

  /** All tasks of the batch are durable, but for those that were refused: for good, or until it makes sense to try again. */
  #acknowledged(ack: wire.SubmitAck, ended: (taskId: string, refusal: Refusal) => void): void {
    const batch = this.#batches.get(ack.batchId) ?? [];
    this.#batches.delete(ack.batchId);
    const refusals = new Map(ack.exceptions.map(({ index, refusal }) => [index, refusal])); // a DUPLICATE has none
    batch.forEach((spec, index) => {
      const refusal = refusals.get(index);
      const pending = this.#pending.get(spec.taskId);
      if (!refusal && pending) pending.acknowledged = true;
      const again = () => this.#call && pending?.acknowledged === false && this.#submit([spec]);
      if (refusal?.retryAfter) setTimeout(again, milliseconds(refusal.retryAfter));
      else if (refusal) ended(spec.taskId, refusal);
    });
  }

  readonly #send = (message: wire.DeepPartial<wire.SessionRequest>) => this.#call?.write(wire.SessionRequest.fromPartial(message));
}

const [taskType, ...payloads] = process.argv.slice(2);
if (!taskType || payloads.length === 0) {
  console.error("usage: node dist/client.js TYPE PAYLOAD...");
  process.exit(2);
}
const specs = payloads.map((payload) => TaskSpec.fromPartial({ taskId: randomUUID(), taskType, payload: Buffer.from(payload) }));
await new Client().run(specs, (spec, result) => {
  if ("code" in result) return fail(spec, "REFUSED", `${result.reason}: ${result.message}`);
  const outcome = result.outcome?.result;
  const state = TaskState[result.state].replace("TASK_STATE_", "");
  if (outcome?.$case === "success") console.log(`${spec.taskId} ${state} ${outcome.value.payload}`);
  else fail(spec, state, outcome?.$case === "failure" ? outcome.value.message : outcome?.$case === "cancelled" ? outcome.value.reason : "");
});

function fail({ taskId }: TaskSpec, state: string, why: string): void {
  console.log(`${taskId} ${state} ${why}`);
  process.exitCode = 1;
}
