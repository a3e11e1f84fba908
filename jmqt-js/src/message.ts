import { toBytes } from './bytes.js';
import { rawData } from './packet.js';
import type { Qos } from './packet.js';

/** A message that was pushed to this client (§7.m). */
export class Message<T = unknown> {
  readonly #packet: string;
  readonly #acknowledge: (() => void) | undefined;

  /** @internal */
  constructor(
    readonly channel: string,
    /** What was published, as `JSON.parse` has it. */
    readonly data: T,
    /** The id of the client that published it; empty for the server. */
    readonly client: string,
    readonly qos: Qos,
    /** The retained message of its channel, sent because of a subscription or a connection (§9.b). */
    readonly retained: boolean,
    /** What the server calls it: the same each time it comes. Empty with QoS 0. */
    readonly id: string,
    packet: string,
    acknowledge?: () => void,
    /**
     * An MQTT client published literally the JSON text of a string or of `{"$b64":"…"}` (`jt`, protocol.md 2.26). To publish
     * the same again: `new RawJson(message.json, { literal: message.literal })`.
     */
    readonly literal = false,
  ) {
    this.#packet = packet;
    this.#acknowledge = acknowledge;
  }

  /** What was published, as the text it was sent as: every digit of every number (protocol.md 2.7). */
  get json(): string {
    return rawData(this.#packet) ?? '';
  }

  /**
   * What was published as bytes, as an MQTT client receives them (protocol.md 2.26): the characters of a string, the bytes of
   * `{"$b64":"…"}`, the JSON text of any other data, and of data that is `literal`.
   */
  bytes(): Uint8Array {
    return toBytes(this.data, this.json, this.literal);
  }

  /**
   * Tells the server that this QoS 1 message was taken, and need not come again. Necessary with
   * `ack: 'manual'` alone; otherwise it is merely earlier. Of no effect with QoS 0, or a second time.
   */
  ack(): void {
    this.#acknowledge?.();
  }
}
