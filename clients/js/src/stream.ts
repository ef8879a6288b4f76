import { EspigonError } from "./error.js";
import type { Message } from "./message.js";
import type { Room } from "./room.js";

/** Messages that wait for a loop that is slower than the room. */
const LIMIT = 10_000;

/** The room's messages from now on, for `for await`; ends when the room is left, and throws if nobody here wished that. */
export function stream<T>(room: Room<T>): AsyncIterableIterator<Message<T>> {
  const waiting: Message<T>[] = [];
  let wake: (() => void) | undefined;
  let ended = room.state === "left";
  let error: EspigonError | undefined;
  const end = (why?: EspigonError) => {
    ended = true;
    error = why;
    for (const off of offs) off();
    wake?.();
  };
  const offs = [
    room.on("left", (left) => end(left.error)),
    room.on("message", (message) => {
      waiting.push(message);
      if (waiting.length > LIMIT) end(new EspigonError("too_slow", "the loop is too slow", room.name));
      wake?.();
    }),
  ];
  if (ended) end(new EspigonError("not_joined", `join ${room.name} first`, room.name));
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      while (!waiting.length && !ended) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      const value = waiting.shift();
      if (value) return { value, done: false };
      const why = error;
      error = undefined;
      if (why) throw why;
      return { value: undefined, done: true };
    },
    async return() {
      waiting.length = 0;
      end();
      return { value: undefined, done: true };
    },
  };
}
