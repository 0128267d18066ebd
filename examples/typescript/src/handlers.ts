// What this agent can do, by task type. A handler throws to fail, and stops soon after its signal is aborted. It shares the event loop
// with the stream: one that computes for longer than Welcome.lease belongs in a worker thread.
import { setTimeout as sleep } from "node:timers/promises";
import { FailureKind, type Outcome, type TaskSpec } from "./gen/muster/v1/common.js";

export type Ending = NonNullable<Outcome["result"]>;
type Progress = (current: number, total: number) => unknown;
type Handler = (payload: Buffer, signal: AbortSignal, progress: Progress) => Promise<Buffer>;

const APPLICATION = FailureKind.FAILURE_KIND_APPLICATION;
const handlers: Record<string, Handler> = {
  reverse: async (payload) => Buffer.from([...payload.toString()].reverse().join("")),
  countdown: async (payload, signal, progress) => {
    const total = Number(payload.toString());
    if (!(total >= 0)) throw new RangeError(`can't count down from ${JSON.stringify(payload.toString())}`);
    for (let done = 0; done < total; done++) {
      progress(done, total);
      await sleep(1_000, undefined, { signal });
    }
    return Buffer.from("lift-off");
  },
};

export const capabilities = Object.keys(handlers).map((taskType) => ({ taskType }));

/** Runs a task's handler to its end. One that stopped because its signal was aborted ended the way that the signal says. */
export async function perform(task: TaskSpec, signal: AbortSignal, progress: Progress): Promise<Ending> {
  try {
    const handler = handlers[task.taskType];
    if (!handler) throw new Error(`no handler for ${task.taskType}`);
    return { $case: "success", value: { payload: await handler(task.payload, signal, progress), contentType: "" } };
  } catch (error) {
    if (signal.aborted) return signal.reason as Ending;
    const { name, message, stack = "" } = error instanceof Error ? error : new Error(String(error));
    const nonRetryable = error instanceof RangeError; // the input is wrong, and stays so
    return { $case: "failure", value: { kind: APPLICATION, message, type: name, stackTrace: stack, nonRetryable, retryAfter: undefined } };
  }
}
