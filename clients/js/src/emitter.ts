export type Off = () => void;
type Listener<T> = (value: T) => void;

/** Typed events. A listener that throws harms neither the others nor the client. */
export class Emitter<Events> {
  private _listeners = new Map<keyof Events, Set<Listener<never>>>();

  /** Calls `listener` at each event; returns what ends that. So does aborting `signal`. */
  on<E extends keyof Events>(event: E, listener: Listener<Events[E]>, options?: { signal?: AbortSignal }): Off {
    const signal = options?.signal;
    if (signal?.aborted) return () => {};
    const all = this._listeners.get(event) ?? new Set();
    this._listeners.set(event, all.add(listener));
    const off = () => {
      this.off(event, listener);
      signal?.removeEventListener("abort", off);
    };
    signal?.addEventListener("abort", off);
    return off;
  }

  /** As `on`, for the next event only. */
  once<E extends keyof Events>(event: E, listener: Listener<Events[E]>, options?: { signal?: AbortSignal }): Off {
    const off = this.on(
      event,
      (value) => {
        off();
        listener(value);
      },
      options,
    );
    return off;
  }

  off<E extends keyof Events>(event: E, listener: Listener<Events[E]>): void {
    const all = this._listeners.get(event);
    all?.delete(listener);
    if (!all?.size) this._listeners.delete(event);
  }

  /** @internal */
  _emit<E extends keyof Events>(event: E, value: Events[E]): void {
    for (const listener of [...(this._listeners.get(event) ?? [])]) {
      try {
        (listener as Listener<Events[E]>)(value);
      } catch (error) {
        // As an uncaught one of its own, where consoles and error reporters look.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  /** @internal */
  get _isIdle(): boolean {
    return !this._listeners.size;
  }
}
