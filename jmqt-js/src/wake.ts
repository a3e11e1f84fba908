/** When a page comes back, or its network does: what a client should hear of at once. */

interface Target {
  addEventListener(name: string, listener: () => void): void;
  removeEventListener(name: string, listener: () => void): void;
}

interface Page extends Target {
  readonly visibilityState: string;
}

export interface WakeEvents {
  /** The page can be seen again, was taken out of the cache, or the network is back. */
  awake(): void;
  /** The platform says that the network has gone. It may be wrong. */
  offline(): void;
}

/** Listens where the platform has such events; what is returned ends that. */
export function onWake(events: WakeEvents): () => void {
  const { document, addEventListener } = globalThis as { document?: Page; addEventListener?: unknown };
  const scope = typeof addEventListener === 'function' ? (globalThis as unknown as Target) : undefined;
  const awake = (): void => events.awake();
  const offline = (): void => events.offline();
  const visible = (): void => {
    if (document?.visibilityState === 'visible') events.awake();
  };
  const all: [Target | undefined, string, () => void][] = [
    [scope, 'online', awake],
    [scope, 'pageshow', awake],
    [scope, 'offline', offline],
    [document, 'visibilitychange', visible],
  ];
  for (const [target, name, listener] of all) target?.addEventListener(name, listener);
  return () => {
    for (const [target, name, listener] of all) target?.removeEventListener(name, listener);
  };
}
