// jmqt-js: made by `npm run build` from src/; MIT license. Do not edit.
var __defProp = Object.defineProperty;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __esm = (fn, res, err) => function __init() {
  if (err) throw err[0];
  try {
    return fn && (res = (0, fn[__getOwnPropNames(fn)[0]])(fn = 0)), res;
  } catch (e) {
    throw err = [e], e;
  }
};
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};

// dist/errors.js
function describeStatus(status) {
  const name = STATUS_NAMES.get(status);
  return name === void 0 ? String(status) : `${status} ${name}`;
}
var Status, STATUS_NAMES, JmqtError, RefusedError, UnsupportedError, NetworkError, ConnectionLostError, UnauthorizedError, WrongServerError, TimeoutError, AbortedError, QueueFullError, ClosedError, UsageError;
var init_errors = __esm({
  "dist/errors.js"() {
    "use strict";
    Status = {
      OK: 1,
      FAILED: 0,
      UNKNOWN: -1,
      MALFORMED_PACKET: 3,
      SERVER_ERROR: 5,
      INVALID_TOKEN: 6,
      NOT_ALLOWED: 7,
      CLIENT_OFFLINE: 8,
      NETWORK_ERROR: 9,
      INVALID_PACKET: 10,
      INVALID_CHANNEL: 11
    };
    STATUS_NAMES = new Map(Object.entries(Status).map(([name, status]) => [status, name]));
    JmqtError = class extends Error {
      code;
      status;
      name = "JmqtError";
      constructor(code, status, message, options) {
        super(message, options);
        this.code = code;
        this.status = status;
      }
    };
    RefusedError = class extends JmqtError {
      request;
      channel;
      reply;
      name = "RefusedError";
      constructor(request, status, channel, reply, because = "") {
        const where = channel === void 0 ? "" : ` on channel ${JSON.stringify(channel)}`;
        const words = typeof reply === "string" && request === "auth" ? `: ${reply}` : "";
        super("REFUSED", status, `${request}${where} was refused with status ${describeStatus(status)}${words}${because}`);
        this.request = request;
        this.channel = channel;
        this.reply = reply;
      }
    };
    UnsupportedError = class extends RefusedError {
      name = "UnsupportedError";
      constructor(request, filter) {
        super(request, Status.FAILED, filter, void 0, ": the server does not support filters with wildcards");
      }
    };
    NetworkError = class extends JmqtError {
      name = "NetworkError";
      constructor(message, options, code = "NETWORK") {
        super(code, Status.NETWORK_ERROR, message, options);
      }
    };
    ConnectionLostError = class extends NetworkError {
      name = "ConnectionLostError";
      /** Why the server ended it, where the server said so (protocol.md 2.22). */
      reason;
      constructor(message, options) {
        super(message, options?.cause === void 0 ? void 0 : { cause: options.cause }, "CONNECTION_LOST");
        this.reason = options?.reason;
      }
    };
    UnauthorizedError = class extends JmqtError {
      name = "UnauthorizedError";
      constructor(message = "the application has no token for this client", options) {
        super("UNAUTHORIZED", Status.INVALID_TOKEN, message, options);
      }
    };
    WrongServerError = class extends NetworkError {
      name = "WrongServerError";
      constructor(message, options) {
        super(message, options, "WRONG_SERVER");
      }
    };
    TimeoutError = class extends NetworkError {
      name = "TimeoutError";
      constructor(message) {
        super(message, void 0, "TIMEOUT");
      }
    };
    AbortedError = class extends JmqtError {
      name = "AbortError";
      constructor(message, reason) {
        super("ABORTED", Status.FAILED, message, { cause: reason });
      }
    };
    QueueFullError = class extends JmqtError {
      name = "QueueFullError";
      constructor(message) {
        super("QUEUE_FULL", Status.NETWORK_ERROR, message);
      }
    };
    ClosedError = class extends JmqtError {
      name = "ClosedError";
      constructor(message) {
        super("CLOSED", Status.NETWORK_ERROR, message);
      }
    };
    UsageError = class extends JmqtError {
      name = "UsageError";
      constructor(message, status = Status.INVALID_PACKET) {
        super("USAGE", status, message);
      }
    };
  }
});

// dist/socket-browser.js
var socket_browser_exports = {};
__export(socket_browser_exports, {
  openSocket: () => openSocket
});
function openSocket(url) {
  throw new UsageError(`a page cannot open ${url.href}: use ws:// or wss:// with the WebSocket port of the server`);
}
var init_socket_browser = __esm({
  "dist/socket-browser.js"() {
    "use strict";
    init_errors();
  }
});

// dist/fifo.js
var Fifo = class {
  #items = [];
  #head = 0;
  get length() {
    return this.#items.length - this.#head;
  }
  push(item) {
    this.#items.push(item);
  }
  at(index) {
    return this.#items[this.#head + index];
  }
  shift() {
    if (this.#head === this.#items.length)
      return void 0;
    const item = this.#items[this.#head];
    this.#items[this.#head++] = void 0;
    if (this.#head === this.#items.length) {
      this.clear();
    } else if (this.#head >= 1024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }
  /** Removes `item` from any place. Linear: for rare cases. */
  remove(item) {
    const index = this.#items.indexOf(item, this.#head);
    if (index < 0)
      return false;
    this.#items.splice(index, 1);
    return true;
  }
  /** Empties the line, and returns what stood in it. */
  clear() {
    const items = this.#items.slice(this.#head);
    this.#items = [];
    this.#head = 0;
    return items;
  }
};

// dist/filter.js
init_errors();

// dist/text.js
var EDGES = /^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+|[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/g;
function trimmed(text) {
  return text.replace(EDGES, "");
}
var encoder = new TextEncoder();
function byteLength(text) {
  return encoder.encode(text).length;
}
function exceeds(text, limit) {
  return text.length * 3 > limit && (text.length > limit || byteLength(text) > limit);
}

// dist/filter.js
var MAX_BYTES = 512;
var MAX_SEPARATORS = 200;
function filterKey(raw) {
  const problem = (because) => {
    throw new UsageError(`${JSON.stringify(raw)} is not a filter: ${because}`, Status.INVALID_CHANNEL);
  };
  if (typeof raw !== "string")
    throw new UsageError(`a filter must be a string, not ${typeof raw}`, Status.INVALID_CHANNEL);
  const filter = trimmed(raw);
  if (!/[+#]/.test(filter))
    problem("it has neither + nor #; subscribe to the channel of this name");
  if (byteLength(filter) > MAX_BYTES)
    problem(`it is longer than ${MAX_BYTES} bytes`);
  if (filter.startsWith("$"))
    problem("wildcards do not match control channels");
  if (/[\u0000-\u001f\u007f-\u009f]/.test(filter))
    problem("it has a control character");
  const levels = filter.split("/");
  if (levels.length - 1 > MAX_SEPARATORS)
    problem(`it has more than ${MAX_SEPARATORS} /`);
  levels.forEach((level, index) => {
    if (level.includes("+") && level !== "+")
      problem("+ must be a level of its own");
    if (level.includes("#") && (level !== "#" || index + 1 < levels.length))
      problem("# must be a level of its own, the last one");
  });
  return ` ${filter}`;
}
function isFilterKey(key) {
  return key.startsWith(" ");
}
function nameOf(key) {
  return isFilterKey(key) ? key.slice(1) : key;
}
function matches(filter, channel) {
  const first = channel[0]?.charAt(0);
  if (first === "$" || first === "#")
    return false;
  for (const [index, level] of filter.entries()) {
    if (level === "#")
      return true;
    if (index >= channel.length || level !== "+" && level !== channel[index])
      return false;
  }
  return filter.length === channel.length;
}

// dist/bytes.js
var encoder2 = new TextEncoder();
var decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
var MAX_DEPTH = 128;
var BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
var LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
function special(data) {
  if (typeof data === "string")
    return LONE_SURROGATE.test(data) ? void 0 : encoder2.encode(data);
  if (typeof data !== "object" || data === null || Object.keys(data).length !== 1)
    return void 0;
  const encoded = data.$b64;
  if (typeof encoded !== "string" || !BASE64.test(encoded))
    return void 0;
  const binary = atob(encoded);
  if (btoa(binary) !== encoded)
    return void 0;
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}
function toBytes(data, json, literal) {
  return (literal ? void 0 : special(data)) ?? encoder2.encode(json);
}
function fromBytes(bytes) {
  let text;
  try {
    text = decoder.decode(bytes);
  } catch {
    return { json: `{"$b64":"${base64(bytes)}"}`, literal: false };
  }
  try {
    const data = JSON.parse(text);
    if (depth(text) <= MAX_DEPTH)
      return { json: text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, ""), literal: special(data) !== void 0 };
  } catch {
  }
  return { json: JSON.stringify(text), literal: false };
}
function base64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 4096)
    binary += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return btoa(binary);
}
function depth(json) {
  let [now, most, inString] = [0, 0, false];
  for (let at = 0; at < json.length; at++) {
    const c = json[at];
    if (inString) {
      if (c === "\\")
        at++;
      else if (c === '"')
        inString = false;
    } else if (c === '"')
      inString = true;
    else if (c === "{" || c === "[")
      most = Math.max(most, ++now);
    else if (c === "}" || c === "]")
      now--;
  }
  return most;
}

// dist/packet.js
init_errors();
var RawJson = class _RawJson {
  text;
  /** For MQTT clients the payload is literally this text: a string is sent with its quotes (`jt`, protocol.md 2.26). */
  literal;
  /** @throws UsageError if `text` is not JSON. */
  constructor(text, options = {}) {
    this.text = text;
    this.literal = options.literal ?? false;
    try {
      JSON.parse(text);
    } catch (cause) {
      throw new UsageError(`RawJson needs JSON text: ${cause.message}`);
    }
  }
  /**
   * Bytes as data: text becomes a JSON string, or, if it is the text of a JSON value, that value; other bytes become
   * `{"$b64":"…"}`. MQTT clients receive exactly these bytes, but for white space around JSON, and `bytes()` of a
   * message has them again (protocol.md 2.26).
   */
  static ofBytes(bytes) {
    const { json, literal } = fromBytes(bytes);
    return new _RawJson(json, { literal });
  }
  toString() {
    return this.text;
  }
};
function encodeData(data, what) {
  if (data instanceof RawJson)
    return data.text;
  let text;
  try {
    text = JSON.stringify(data);
  } catch (cause) {
    throw new UsageError(`cannot write the data of ${what} as JSON: ${cause.message}`);
  }
  if (text === void 0) {
    throw new UsageError(`${what} needs data that can be written as JSON, not ${typeof data}; use null for no data`);
  }
  return text;
}
function encodeAuth(data) {
  return `{"auth":{"dt":${encodeData(data, "auth")}}}`;
}
function encodeConn(token, clientId, window, publisher) {
  return JSON.stringify({ conn: { at: token, cl: clientId, wn: window, pi: publisher } });
}
function encodeSub(key, persistent) {
  return JSON.stringify({ sub: { cn: nameOf(key), ...persistent ? { pr: 1 } : {}, ...isFilterKey(key) ? { wc: 1 } : {} } });
}
function encodeUnsub(key) {
  return JSON.stringify({ unsub: { cn: nameOf(key), ...isFilterKey(key) ? { wc: 1 } : {} } });
}
function encodePub(channel, json, qos, retain, id, literal = false) {
  const data = json === void 0 ? "" : `,"dt":${json}${literal ? ',"jt":1' : ""}`;
  const rest = (qos === 1 ? ',"q":1' : "") + (id === void 0 ? "" : `,"id":${JSON.stringify(id)}`);
  return `{"pub":{"cn":${JSON.stringify(channel)}${data}${rest}${retain ? ',"rt":1' : ""}}}`;
}
function encodePushAck(id) {
  return `{"pushAck":{"id":${JSON.stringify(id)}}}`;
}
var HEARTBEAT = '{"hb":{}}';
var DISCONN = '{"disconn":{}}';
var BadPacket = class extends Error {
};
function decode(text) {
  let packet;
  try {
    packet = JSON.parse(text);
  } catch {
    throw new BadPacket("not JSON");
  }
  if (!isObject(packet))
    throw new BadPacket("not a JSON object");
  const types = Object.keys(packet);
  const type = types[0];
  if (type === void 0 || types.length !== 1)
    throw new BadPacket(`${types.length} members instead of one`);
  const fields = packet[type];
  if (!isObject(fields))
    throw new BadPacket(`the value of ${JSON.stringify(type)} is not an object`);
  switch (type) {
    case "push":
      return decodePush(fields);
    case "pubAck":
      return { type, status: integer(fields, "st"), id: optionalId(fields), data: fields["dt"] };
    case "subAck":
    case "unsubAck":
      return { type, status: integer(fields, "st"), channel: optionalText(fields, "cn"), filter: flag(fields, "wc") };
    case "hbAck":
      return { type };
    case "connAck": {
      const status = integer(fields, "st");
      const timeoutSeconds = status === Status.OK ? integer(fields, "ts") : 0;
      return { type, status, timeoutSeconds, publishesOnce: Number(fields["pi"]) === 1 };
    }
    case "disconn": {
      const seconds = fields["ts"];
      return {
        type,
        code: integer(fields, "st"),
        text: optionalText(fields, "mg") ?? "",
        seconds: typeof seconds === "number" ? seconds : 0
      };
    }
    case "authAck": {
      const status = integer(fields, "st");
      if (status !== Status.OK) {
        return { type, status, token: "", clientId: "", message: optionalText(fields, "mg") ?? "" };
      }
      return { type, status, token: requiredText(fields, "at"), clientId: requiredText(fields, "cl"), message: "" };
    }
    default:
      throw new BadPacket(`unexpected packet type ${JSON.stringify(type)}`);
  }
}
function decodePush(fields) {
  const qos = flag(fields, "q") ? 1 : 0;
  const id = optionalId(fields);
  if (qos === 1 && id === void 0)
    throw new BadPacket("a QoS 1 push without id");
  if (fields["dt"] === void 0)
    throw new BadPacket("a push without dt");
  return {
    type: "push",
    channel: requiredText(fields, "cn"),
    data: fields["dt"],
    literal: flag(fields, "jt"),
    client: optionalText(fields, "cl") ?? "",
    qos,
    id: id ?? "",
    retained: flag(fields, "rt")
  };
}
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
function integer(fields, key) {
  const value = fields[key];
  if (!Number.isInteger(value))
    throw new BadPacket(`field ${key} is not an integer`);
  return value;
}
function optionalText(fields, key) {
  const value = fields[key];
  if (value === void 0 || value === null)
    return void 0;
  if (typeof value !== "string")
    throw new BadPacket(`field ${key} is not text`);
  return value;
}
function requiredText(fields, key) {
  const value = optionalText(fields, key);
  if (value === void 0)
    throw new BadPacket(`field ${key} is missing`);
  return value;
}
function optionalId(fields) {
  const value = fields["id"];
  return typeof value === "number" ? String(value) : optionalText(fields, "id");
}
function flag(fields, key) {
  const value = fields[key];
  if (value === void 0 || value === null || value === 0 || value === false || value === "0")
    return false;
  if (value === 1 || value === true || value === "1")
    return true;
  throw new BadPacket(`field ${key} is neither 0 nor 1`);
}
function rawData(packet) {
  const outer = members(packet, skipSpace(packet, 0));
  const fields = outer[0];
  if (fields === void 0)
    return void 0;
  return members(packet, fields.start).filter((member) => member.key === "dt").map((member) => packet.slice(member.start, member.end)).at(-1);
}
function members(text, at) {
  const found = [];
  at = skipSpace(text, at + 1);
  while (text[at] === '"') {
    const keyEnd = skipValue(text, at);
    const key = JSON.parse(text.slice(at, keyEnd));
    const start = skipSpace(text, skipSpace(text, keyEnd) + 1);
    const end = skipValue(text, start);
    found.push({ key, start, end });
    at = skipSpace(text, end);
    if (text[at] !== ",")
      break;
    at = skipSpace(text, at + 1);
  }
  return found;
}
function skipSpace(text, at) {
  while (at < text.length && text.charCodeAt(at) <= 32)
    at++;
  return at;
}
function skipValue(text, at) {
  let depth2 = 0;
  for (; ; ) {
    const c = text[at++];
    if (c === void 0)
      return text.length;
    if (c === '"') {
      at = skipString(text, at);
    } else if (c === "{" || c === "[") {
      depth2++;
    } else if (c === "}" || c === "]") {
      depth2--;
    } else if (depth2 === 0) {
      while (at < text.length && !",}] 	\r\n".includes(text.charAt(at)))
        at++;
    }
    if (depth2 === 0)
      return at;
  }
}
function skipString(text, at) {
  while (at < text.length) {
    const c = text[at++];
    if (c === '"')
      return at;
    if (c === "\\")
      at++;
  }
  return at;
}
var MAX_CHANNEL_BYTES = 512;
function channelName(raw) {
  if (typeof raw !== "string") {
    throw new UsageError(`a channel name must be a string, not ${typeof raw}`, Status.INVALID_CHANNEL);
  }
  const name = trimmed(raw);
  if (name === "" || name === "$" || name === "#") {
    throw new UsageError(`${JSON.stringify(raw)} is not a channel name: the name is empty`, Status.INVALID_CHANNEL);
  }
  const size = byteLength(name);
  if (size > MAX_CHANNEL_BYTES) {
    const problem = `a channel name of ${size} bytes is too long: ${MAX_CHANNEL_BYTES} is the limit`;
    throw new UsageError(problem, Status.INVALID_CHANNEL);
  }
  return name;
}

// dist/message.js
var Message = class {
  channel;
  data;
  client;
  qos;
  retained;
  id;
  literal;
  #packet;
  #acknowledge;
  /** @internal */
  constructor(channel, data, client, qos, retained, id, packet, acknowledge, literal = false) {
    this.channel = channel;
    this.data = data;
    this.client = client;
    this.qos = qos;
    this.retained = retained;
    this.id = id;
    this.literal = literal;
    this.#packet = packet;
    this.#acknowledge = acknowledge;
  }
  /** What was published, as the text it was sent as: every digit of every number (protocol.md 2.7). */
  get json() {
    return rawData(this.#packet) ?? "";
  }
  /**
   * What was published as bytes, as an MQTT client receives them (protocol.md 2.26): the characters of a string, the bytes of
   * `{"$b64":"…"}`, the JSON text of any other data, and of data that is `literal`.
   */
  bytes() {
    return toBytes(this.data, this.json, this.literal);
  }
  /**
   * Tells the server that this QoS 1 message was taken, and need not come again. Necessary with
   * `ack: 'manual'` alone; otherwise it is merely earlier. Of no effect with QoS 0, or a second time.
   */
  ack() {
    this.#acknowledge?.();
  }
};

// dist/delivery.js
var REMEMBERED_IDS = 4096;
var IDLE_CHANNELS = 4096;
var Deliveries = class {
  #options;
  #listeners = [];
  #channels = /* @__PURE__ */ new Map();
  /** By their keys: what is waited for of all channels that a filter matches. */
  #filters = /* @__PURE__ */ new Map();
  /** QoS 1 messages that nobody was there to take. */
  #unclaimed = 0;
  #tidyAt = IDLE_CHANNELS;
  constructor(options) {
    this.#options = options;
  }
  push(push, packet) {
    if (push.qos === 1)
      this.#pushQos1(push, packet);
    else
      this.#pushQos0(push, packet);
  }
  listen(listener) {
    this.#listeners.push(listener);
    queueMicrotask(() => {
      for (const channel of this.#channels.values())
        this.#offerUnclaimed(channel);
      for (const filter of this.#filters.values())
        this.#offerUnclaimed(filter);
    });
  }
  unlisten(listener) {
    const index = this.#listeners.indexOf(listener);
    if (index >= 0)
      this.#listeners.splice(index, 1);
  }
  /** Hands over this channel alone. */
  listenTo(name, listener) {
    const channel = this.#expect(name);
    channel.listeners.push(listener);
    queueMicrotask(() => this.#offerUnclaimed(channel));
    return () => {
      const index = channel.listeners.indexOf(listener);
      if (index >= 0)
        channel.listeners.splice(index, 1);
      this.#tidy(name);
    };
  }
  /** Somebody has subscribed: messages of this channel wait for somebody who takes them, until what is returned is called. */
  want(name) {
    this.#expect(name).wanted++;
    return () => {
      const channel = this.#find(name);
      if (!channel || channel.wanted === 0)
        return;
      if (--channel.wanted === 0 && channel.streams.size === 0)
        channel.expected = false;
      this.#tidy(name);
    };
  }
  #expect(name) {
    const channel = this.#channel(name);
    channel.expected = true;
    return channel;
  }
  #find(name) {
    return isFilterKey(name) ? this.#filters.get(name) : this.#channels.get(name);
  }
  #channel(name) {
    let channel = this.#find(name);
    if (!channel && isFilterKey(name)) {
      const filter = new FilterTakers(this.#options, nameOf(name));
      this.#filters.set(name, filter);
      return filter;
    }
    if (!channel) {
      if (this.#channels.size >= this.#tidyAt)
        this.#tidyAll();
      this.#channels.set(name, channel = new Channel(this.#options));
    }
    return channel;
  }
  /** Forgets a channel of which there is nothing to remember. */
  #tidy(name) {
    const channel = this.#find(name);
    if (channel?.idle && channel.seen.size === 0)
      (isFilterKey(name) ? this.#filters : this.#channels).delete(name);
  }
  /** Forgets the oldest idle channels, and with them which messages have come. Half of the room is then free again. */
  #tidyAll() {
    for (const [name, channel] of this.#channels) {
      if (this.#channels.size <= IDLE_CHANNELS / 2)
        break;
      if (channel.idle)
        this.#channels.delete(name);
    }
    this.#tidyAt = this.#channels.size + IDLE_CHANNELS / 2;
  }
  messages(name) {
    const channel = this.#expect(name);
    const stream = new MessageStream(this.#options, (given) => {
      channel.streams.delete(stream);
      for (const handed of given)
        this.#giveBack(channel, handed);
    });
    channel.streams.add(stream);
    this.#offerUnclaimed(channel);
    return stream;
  }
  /** The subscription is over: readers get what has arrived, and then the end, or this error. */
  end(name, error) {
    const channel = this.#find(name);
    if (!channel)
      return;
    (isFilterKey(name) ? this.#filters : this.#channels).delete(name);
    channel.over = true;
    channel.listeners.length = 0;
    this.#stop(channel, error);
  }
  /** The client has stopped. It may start again: what was taken by then is remembered, and who listens. */
  endAll(error) {
    for (const [name, channel] of [...this.#channels, ...this.#filters]) {
      this.#stop(channel, error);
      if (channel.wanted > 0)
        channel.expected = true;
      this.#tidy(name);
    }
  }
  /** Another client begins: the server may use the same ids for it. */
  forgetIds() {
    for (const channel of this.#channels.values()) {
      channel.seen = new SeenIds(REMEMBERED_IDS);
      channel.held.clear();
    }
  }
  #stop(channel, error) {
    channel.expected = false;
    for (const handed of channel.unclaimed.clear()) {
      this.#unclaimed--;
      handed.forget();
    }
    for (const stream of channel.streams)
      stream.end(error);
    channel.streams.clear();
  }
  #pushQos0(push, packet) {
    const channel = this.#channels.get(push.channel);
    const filters = this.#matching(push.channel);
    if (!channel?.expected && this.#listeners.length === 0 && filters.length === 0) {
      this.#options.dropped();
      return;
    }
    const { client, data, literal, retained } = push;
    const message = new Message(push.channel, data, client, 0, retained, "", packet, void 0, literal);
    this.#distribute(channel ? [channel, ...filters] : filters, message, void 0);
  }
  #pushQos1(push, packet) {
    const { id } = push;
    const channel = this.#channel(push.channel);
    if (channel.seen.has(id)) {
      if (!channel.held.has(id))
        this.#options.acknowledge(id);
      return;
    }
    channel.seen.add(id);
    const handed = new Handed(channel, id, this.#options);
    channel.held.add(id);
    const acknowledge = () => handed.acknowledge();
    const { client, data, literal, retained } = push;
    const message = new Message(push.channel, data, client, 1, retained, id, packet, acknowledge, literal);
    handed.message = message;
    const waits = this.#distribute([channel, ...this.#matching(push.channel)], message, handed);
    if (waits && ++this.#unclaimed === this.#options.window) {
      this.#options.report(new Error(`${this.#unclaimed} QoS 1 messages wait for a listener or an iterator, as many as the server sends without an acknowledgement: no more will come. The last one is on channel ${JSON.stringify(push.channel)}`));
    }
  }
  /** The filters with takers that a channel matches. */
  #matching(name) {
    if (this.#filters.size === 0)
      return NO_FILTERS;
    const levels = name.split("/");
    return [...this.#filters.values()].filter((filter) => filter.expected && matches(filter.levels, levels));
  }
  /**
   * Hands over a message of one channel and of the filters that match it. Where nobody takes it, or others wait that came
   * before, it waits: then the answer is `true`.
   */
  #distribute(channels, message, handed) {
    const [only] = channels;
    if (only && channels.length === 1) {
      if (only.unclaimed.length === 0 && this.#hasTaker(only)) {
        this.#handOver(channels, message, handed);
        return false;
      }
      only.unclaimed.push(message, handed);
      return true;
    }
    for (const channel of channels)
      if (channel.unclaimed.length > 0)
        this.#offerUnclaimed(channel);
    const takers = channels.filter((channel) => this.#hasTaker(channel));
    if (takers.length > 0 || this.#listeners.length > 0) {
      this.#handOver(takers, message, handed);
      return false;
    }
    const waits = channels.find(({ expected }) => expected) ?? only;
    waits?.unclaimed.push(message, handed);
    return waits !== void 0;
  }
  #hasTaker(channel) {
    return this.#listeners.length > 0 || channel.listeners.length > 0 || channel.streams.size > 0;
  }
  #handOver(channels, message, handed) {
    let streams = 0;
    for (const channel of channels) {
      for (const stream of channel.streams)
        stream.offer(message, handed);
      streams += channel.streams.size;
    }
    const [first] = channels;
    const own = first && channels.length === 1 ? first.listeners : channels.flatMap((channel) => channel.listeners);
    const only = own.length === 0 && this.#listeners.length === 1 ? this.#listeners[0] : void 0;
    const listeners = only ? void 0 : [...this.#listeners, ...own];
    handed?.expectTakers(streams + (listeners?.length ?? 1));
    if (only)
      this.#call(only, message, handed);
    else
      for (const listener of listeners ?? [])
        this.#call(listener, message, handed);
  }
  #call(listener, message, handed) {
    const failed = (error) => {
      handed?.failed();
      this.#options.report(error);
    };
    try {
      const result = listener(message);
      if (isThenable(result))
        result.then(() => handed?.taken(), failed);
      else
        handed?.taken();
    } catch (error) {
      failed(error);
    }
  }
  #offerUnclaimed(channel) {
    if (!this.#hasTaker(channel))
      return;
    for (let next = channel.unclaimed.shift(); next; next = channel.unclaimed.shift()) {
      if (next.handed)
        this.#unclaimed--;
      if (!next.handed?.done)
        this.#handOver([channel], next.message, next.handed);
    }
  }
  /** A reader has left without taking this message. */
  #giveBack(channel, handed) {
    if (!handed.leftByLast() || !handed.message)
      return;
    if (channel.over)
      return;
    channel.unclaimed.push(handed.message, handed);
    this.#unclaimed++;
    this.#offerUnclaimed(channel);
  }
};
var Backlog = class {
  #limit;
  #dropped;
  #qos0 = new Fifo();
  #qos1 = new Fifo();
  #arrived = 0;
  constructor(limit, dropped) {
    this.#limit = limit;
    this.#dropped = dropped;
  }
  get length() {
    return this.#qos0.length + this.#qos1.length;
  }
  push(message, handed) {
    const waiting = { at: this.#arrived++, message, handed };
    if (handed) {
      this.#qos1.push(waiting);
      return;
    }
    this.#qos0.push(waiting);
    if (this.#qos0.length > this.#limit) {
      this.#qos0.shift();
      this.#dropped();
    }
  }
  shift() {
    const [zero, one] = [this.#qos0.at(0), this.#qos1.at(0)];
    return one && (!zero || one.at < zero.at) ? this.#qos1.shift() : this.#qos0.shift();
  }
  /** Drops what is waiting, and returns what of it has to be acknowledged one day. */
  clear() {
    this.#qos0.clear();
    return this.#qos1.clear().flatMap(({ handed }) => handed ?? []);
  }
};
var Channel = class {
  constructor(options) {
    this.unclaimed = new Backlog(options.limit, options.dropped);
  }
  /** Unsubscribed from: what is given back is of no use any more. */
  over = false;
  /** The application subscribed to it, or reads it: what comes before its takers is kept for them. */
  expected = false;
  /** Subscriptions of the application. */
  wanted = 0;
  listeners = [];
  streams = /* @__PURE__ */ new Set();
  unclaimed;
  seen = new SeenIds(REMEMBERED_IDS);
  /** Ids that were not acknowledged yet. */
  held = /* @__PURE__ */ new Set();
  /** Nobody takes from it, and nothing waits. */
  get idle() {
    const { wanted, listeners, streams, unclaimed, held } = this;
    return wanted === 0 && listeners.length === 0 && streams.size === 0 && unclaimed.length === 0 && held.size === 0;
  }
};
var NO_FILTERS = [];
var FilterTakers = class extends Channel {
  levels;
  constructor(options, filter) {
    super(options);
    this.levels = filter.split("/");
  }
};
var SeenIds = class {
  #places = /* @__PURE__ */ new Map();
  #ring = [];
  #size;
  #next = 0;
  constructor(size) {
    this.#size = size;
  }
  get size() {
    return this.#places.size;
  }
  has(id) {
    return this.#places.has(id);
  }
  add(id) {
    const oldest = this.#ring[this.#next];
    if (oldest !== void 0 && this.#places.get(oldest) === this.#next)
      this.#places.delete(oldest);
    this.#ring[this.#next] = id;
    this.#places.set(id, this.#next);
    this.#next = (this.#next + 1) % this.#size;
  }
  delete(id) {
    this.#places.delete(id);
  }
};
var Handed = class {
  message;
  done = false;
  #channel;
  #id;
  #options;
  #takers = 0;
  #taken = false;
  #failed = false;
  constructor(channel, id, options) {
    this.#channel = channel;
    this.#id = id;
    this.#options = options;
  }
  expectTakers(count) {
    this.#takers = count;
  }
  taken() {
    this.#taken = true;
    this.#left();
  }
  failed() {
    this.#failed = true;
    this.#left();
  }
  /** A taker has left. Whether it was the last, and nobody has taken the message. */
  leftByLast() {
    if (this.#takers === 1 && !this.#taken && !this.#failed && !this.done) {
      this.#takers = 0;
      return true;
    }
    this.#left();
    return false;
  }
  acknowledge() {
    if (this.done)
      return;
    this.done = true;
    this.#channel.held.delete(this.#id);
    this.#options.acknowledge(this.#id);
  }
  /** Nobody took it: when it comes again, it is handed over again. */
  forget() {
    this.done = true;
    this.#channel.held.delete(this.#id);
    this.#channel.seen.delete(this.#id);
  }
  #left() {
    if (--this.#takers > 0 || this.done)
      return;
    if (this.#failed)
      this.forget();
    else if (!this.#options.manual)
      this.acknowledge();
  }
};
var MessageStream = class {
  #leave;
  #backlog;
  #readers = new Fifo();
  #given = [];
  #dropped = 0;
  #ended = false;
  #error;
  /** @internal */
  constructor(options, leave) {
    this.#leave = leave;
    this.#backlog = new Backlog(options.limit, () => {
      this.#dropped++;
      options.dropped();
    });
  }
  /** QoS 0 messages that were dropped here because nobody read them. */
  get dropped() {
    return this.#dropped;
  }
  /** @internal */
  offer(message, handed) {
    const reader = this.#readers.shift();
    if (reader) {
      if (handed)
        this.#given.push(handed);
      reader.resolve({ done: false, value: message });
      return;
    }
    this.#backlog.push(message, handed);
  }
  next() {
    const before = this.#given;
    this.#given = [];
    for (const handed of before)
      handed.taken();
    const next = this.#backlog.shift();
    if (next) {
      if (next.handed)
        this.#given.push(next.handed);
      return Promise.resolve({ done: false, value: next.message });
    }
    if (this.#ended)
      return this.#error ? Promise.reject(this.#error) : Promise.resolve(DONE);
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }
  /** The reader has left: what it did not take waits for the next one. */
  return() {
    this.end();
    const left = [...this.#given, ...this.#backlog.clear()];
    this.#given = [];
    this.#leave(left);
    return Promise.resolve(DONE);
  }
  /** @internal */
  end(error) {
    if (this.#ended)
      return;
    this.#ended = true;
    this.#error = error;
    for (const reader of this.#readers.clear()) {
      if (error)
        reader.reject(error);
      else
        reader.resolve(DONE);
    }
  }
  [Symbol.asyncIterator]() {
    return this;
  }
};
var DONE = { done: true, value: void 0 };
function isThenable(value) {
  return typeof value === "object" && value !== null && typeof value.then === "function";
}

// dist/client.js
init_errors();

// dist/events.js
var Events = class {
  #listeners = new globalThis.Map();
  #report;
  /** `report` hears of listeners that throw. */
  constructor(report) {
    this.#report = report;
  }
  on(name, listener) {
    this.#listeners.set(name, [...this.#listeners.get(name) ?? [], listener]);
  }
  off(name, listener) {
    const kept = (this.#listeners.get(name) ?? []).filter((other) => other !== listener);
    this.#listeners.set(name, kept);
  }
  has(name) {
    return (this.#listeners.get(name)?.length ?? 0) > 0;
  }
  emit(name, event) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(event);
      } catch (error) {
        this.#report(error);
      }
    }
  }
};

// dist/limit.js
init_errors();
function limited(what, options, timeout, start, cancel, hint = () => "") {
  const { signal } = options;
  const milliseconds = options.timeout ?? timeout;
  if (signal?.aborted)
    return Promise.reject(new AbortedError(`${what} was aborted before it started`, signal.reason));
  if (!signal && !(milliseconds > 0))
    return new Promise(start);
  return new Promise((resolve, reject) => {
    let timer;
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
    };
    const stop = (error) => {
      settle();
      cancel(error);
      reject(error);
    };
    const aborted = () => stop(new AbortedError(`${what} was aborted`, signal?.reason));
    if (milliseconds > 0) {
      const late = () => stop(new TimeoutError(`${what}: no answer within ${milliseconds} ms${hint()}`));
      timer = setTimeout(late, milliseconds);
    }
    signal?.addEventListener("abort", aborted);
    start((value) => {
      settle();
      resolve(value);
    }, (error) => {
      settle();
      reject(error);
    });
  });
}

// dist/outbox.js
init_errors();
var MAX_IN_FLIGHT = 1e4;
function publisherId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
var CHECKED = "q";
var Outbox = class {
  #options;
  #waiting = new Fifo();
  #inFlight = /* @__PURE__ */ new Map();
  #wire;
  #lastId = 0;
  #lastChecked = 0;
  #lastSentChecked = 0;
  /** The heartbeat that is under way behind checked publishes, and the number of the last of these. */
  #check;
  constructor(options) {
    this.#options = options;
  }
  /** Publishes that wait to be sent. */
  get waiting() {
    return this.#waiting.length;
  }
  /** Publishes that were sent and have no answer. */
  get inFlight() {
    return this.#inFlight.size;
  }
  /** Sends it now or later. `cancel` takes it out again, as far as that is possible. */
  add(publish) {
    const answered = publish.qos === 1 || publish.kind === "request";
    const checkedNumber = publish.checked && !answered ? ++this.#lastChecked : void 0;
    const checkedId = checkedNumber === void 0 ? void 0 : `${CHECKED}${checkedNumber}`;
    const id = answered ? String(++this.#lastId) : checkedId;
    const entry = { ...publish, id, checkedNumber, admitted: false };
    if (this.#wire && this.#waiting.length === 0 && this.#maySend(entry))
      this.#send(entry);
    else
      this.#queue(entry);
    return { id: id ?? "", cancel: () => this.#forget(entry) };
  }
  /** There is a session, and its subscriptions are made: sends what has no answer, then what waits. */
  attach(wire) {
    this.#wire = wire;
    for (const entry of this.#inFlight.values())
      wire.send(encode(entry));
    this.flush();
  }
  /** The session is over. */
  detach(why) {
    this.#wire = void 0;
    this.#check = void 0;
    for (const [id, entry] of this.#inFlight) {
      if (entry.kind !== "request" && entry.checkedNumber === void 0)
        continue;
      this.#inFlight.delete(id);
      const [kind, done] = entry.kind === "request" ? ["request", "it was carried out"] : ["QoS 0 publish", "it arrived"];
      const what = `the ${kind} on channel ${JSON.stringify(entry.channel)} was under way when the connection ended`;
      entry.reject(new ConnectionLostError(`${what} (${why}): it is unknown whether ${done}`));
    }
  }
  /** Sends what there is room for. */
  flush() {
    for (let entry = this.#waiting.at(0); entry && this.#maySend(entry); entry = this.#waiting.at(0)) {
      this.#waiting.shift();
      this.#admitNext();
      this.#send(entry);
    }
  }
  /** A `pubAck` has arrived (§7.l). */
  answered(id, status, data, packet) {
    const entry = id === void 0 ? void 0 : this.#inFlight.get(id);
    if (!entry || id === void 0)
      return;
    this.#inFlight.delete(id);
    if (status === Status.OK)
      entry.resolve({ id, data, packet });
    else
      entry.reject(new RefusedError(entry.kind, status, entry.channel, data));
    this.flush();
  }
  /** The server has handled everything that was sent before this heartbeat. */
  beatAnswered(beat) {
    const check = this.#check;
    if (!check || beat < check.beat)
      return;
    this.#check = void 0;
    let isLater = false;
    for (const [id, entry] of this.#inFlight) {
      if (entry.checkedNumber === void 0)
        continue;
      if (entry.checkedNumber > check.last) {
        isLater = true;
        continue;
      }
      this.#inFlight.delete(id);
      entry.resolve({ id, data: void 0, packet: "" });
    }
    if (isLater)
      this.#sendCheck();
    this.flush();
  }
  /** Nothing more will be sent: a heartbeat goes behind the last checked publish. */
  checkLast() {
    if (this.#wire && this.#check && this.#check.last < this.#lastSentChecked) {
      this.#check = { beat: this.#wire.beat(), last: this.#lastSentChecked };
    }
  }
  #sendCheck() {
    if (this.#wire && !this.#check)
      this.#check = { beat: this.#wire.beat(), last: this.#lastSentChecked };
  }
  /** Ends everything with this error. */
  close(error) {
    this.#wire = void 0;
    this.#check = void 0;
    const left = [...this.#inFlight.values(), ...this.#waiting.clear()];
    this.#inFlight.clear();
    for (const entry of left)
      entry.reject(error);
  }
  #maySend(entry) {
    if (!this.#wire?.hasRoom())
      return false;
    return entry.id === void 0 || this.#inFlight.size < this.#options.inFlight;
  }
  #send(entry) {
    if (entry.id !== void 0)
      this.#inFlight.set(entry.id, entry);
    this.#wire?.send(encode(entry));
    if (entry.checkedNumber !== void 0) {
      this.#lastSentChecked = entry.checkedNumber;
      this.#sendCheck();
    }
    this.#admit(entry);
  }
  #queue(entry) {
    const { limit, full, dropped } = this.#options;
    if (this.#waiting.length >= limit && full !== "wait") {
      const problem = `${limit} publishes wait to be sent already`;
      const loser = full === "error" ? entry : this.#waiting.shift();
      if (loser?.admitted && loser.id === void 0)
        dropped();
      else
        loser?.reject(new QueueFullError(`${loser.kind} on channel ${JSON.stringify(loser.channel)}: ${problem}`));
      if (loser === entry)
        return;
    }
    this.#waiting.push(entry);
    if (this.#waiting.length <= limit)
      this.#admit(entry);
  }
  /** Somebody has left the queue: the first who stood outside has a place now. */
  #admitNext() {
    const entry = this.#waiting.at(this.#options.limit - 1);
    if (entry)
      this.#admit(entry);
  }
  /** A QoS 0 publish is done for its caller as soon as it has its place. */
  #admit(entry) {
    if (entry.admitted)
      return;
    entry.admitted = true;
    if (entry.id === void 0)
      entry.resolve();
  }
  #forget(entry) {
    if (entry.id !== void 0)
      this.#inFlight.delete(entry.id);
    if (this.#waiting.remove(entry))
      this.#admitNext();
    this.flush();
  }
};
function encode(entry) {
  return encodePub(entry.channel, entry.json, entry.qos, entry.retain, entry.id, entry.literal);
}

// dist/reason.js
var DisconnectCode = {
  SHUTDOWN: 4e3,
  DRAIN: 4001,
  IDLE: 4002,
  SLOW: 4003,
  NO_ACKNOWLEDGEMENTS: 4004,
  SERVER_ERROR: 4005,
  TRY_LATER: 4006,
  TOKEN_EXPIRED: 4007,
  BY_APPLICATION: 4008,
  TAKEOVER: 4500,
  BAD_PACKETS: 4501,
  PACKET_TOO_LARGE: 4502,
  KICKED: 4503,
  TOO_MANY_REFUSALS: 4504
};
var NAMES = new Map(Object.entries(DisconnectCode).map(([name, code]) => [code, name]));
function disconnectReason(code, text, seconds = 0) {
  if (code === void 0 || code < 4e3 || code > 4999)
    return void 0;
  return { code, name: NAMES.get(code) ?? "", text, mayReconnect: code < 4500, delay: Math.max(0, seconds) * 1e3 };
}
function describeReason({ code, name, text }) {
  return `${code}${name === "" ? "" : ` ${name}`}${text === "" ? "" : `: ${text}`}`;
}

// dist/reconnect.js
var Backoff = class {
  #options;
  #attempt = 0;
  constructor(options) {
    this.#options = {
      initialDelay: options.initialDelay ?? 500,
      factor: options.factor ?? 2,
      maxDelay: options.maxDelay ?? 3e4,
      maxAttempts: options.maxAttempts ?? Infinity,
      stableAfter: options.stableAfter ?? 1e4,
      random: options.random ?? Math.random
    };
  }
  /** Attempts since the last stable session. */
  get attempt() {
    return this.#attempt;
  }
  /** Milliseconds to wait before the next attempt; `undefined` when there shall be none. */
  next() {
    const { initialDelay, factor, maxDelay, maxAttempts, random } = this.#options;
    if (this.#attempt >= maxAttempts)
      return void 0;
    const bound = Math.min(maxDelay, initialDelay * factor ** this.#attempt);
    this.#attempt++;
    return Math.floor(random() * bound);
  }
  /** The application has asked for a connection: the delays start again. */
  reset() {
    this.#attempt = 0;
  }
  /**
   * A session has ended after `milliseconds`. One that ended at once does not count: a server that ends every session
   * at once must not be asked for the next without a pause.
   */
  sessionLasted(milliseconds) {
    if (milliseconds >= this.#options.stableAfter)
      this.#attempt = 0;
  }
};

// dist/session.js
init_errors();

// dist/blob-worker.js
var POLICY = "jmqt-js";
var policy;
function hasWorkers() {
  return typeof Worker === "function" && typeof Blob === "function" && typeof URL.createObjectURL === "function";
}
function startWorker(program) {
  const source = URL.createObjectURL(new Blob([program], { type: "text/javascript" }));
  const release = () => URL.revokeObjectURL(source);
  try {
    const { trustedTypes } = globalThis;
    policy ??= trustedTypes?.createPolicy(POLICY, { createScriptURL: (url) => url });
    return { worker: new Worker(policy?.createScriptURL(source) ?? source), release };
  } catch (error) {
    release();
    throw error;
  }
}

// dist/ticker.js
function every(milliseconds, task, workers) {
  const timer = setInterval(task, milliseconds);
  const { document } = globalThis;
  if (!document || !workers || !hasWorkers())
    return () => clearInterval(timer);
  let worker;
  const follow = () => {
    if (document.hidden) {
      worker ??= workerTicks(milliseconds, task);
    } else {
      worker?.terminate();
      worker = void 0;
    }
  };
  document.addEventListener("visibilitychange", follow);
  follow();
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", follow);
    worker?.terminate();
    worker = void 0;
  };
}
var refused = false;
function workerTicks(milliseconds, task) {
  if (refused)
    return void 0;
  try {
    const { worker, release } = startWorker(`setInterval(() => postMessage(0), ${milliseconds})`);
    worker.onmessage = () => {
      release();
      task();
    };
    worker.onerror = (event) => {
      event.preventDefault?.();
      release();
      worker.terminate();
      refused = true;
    };
    return worker;
  } catch {
    refused = true;
    return void 0;
  }
}

// dist/heartbeat.js
var TICK_MS = 5e3;
var PROBE_MS = 5e3;
var Heartbeat = class {
  #events;
  #interval;
  #tickEvery;
  #now;
  #stopTicking;
  #heard;
  #beaten;
  #ticked;
  #tickedByWall = Date.now();
  #probe;
  constructor(timeoutSeconds, events, now = () => performance.now(), workers = false) {
    this.#events = events;
    this.#interval = Math.max(timeoutSeconds * 1e3 / 4, 100);
    this.#tickEvery = Math.min(this.#interval, TICK_MS);
    this.#now = now;
    this.#heard = this.#beaten = this.#ticked = now();
    this.#stopTicking = every(this.#tickEvery, () => this.#tick(), workers);
  }
  /** Something has arrived. */
  heard() {
    this.#heard = this.#now();
    if (this.#heard - this.#beaten > this.#interval * 1.2)
      this.#beat();
  }
  /** A heartbeat was answered. */
  answered() {
    clearTimeout(this.#probe);
    this.#probe = void 0;
  }
  /** Asks the far end for a sign of life, and waits a few seconds for it. */
  probe() {
    if (this.#probe !== void 0)
      return;
    this.#beat();
    this.#awaitAnswer(this.#now());
  }
  stop() {
    this.#stopTicking();
    clearTimeout(this.#probe);
    this.#probe = void 0;
  }
  #awaitAnswer(asked) {
    const limit = Math.min(PROBE_MS, this.#interval * 2);
    this.#probe = setTimeout(() => {
      this.#probe = void 0;
      if (this.#heard > asked + limit / 2)
        this.#awaitAnswer(this.#now());
      else
        this.#silent(this.#now() - this.#heard);
    }, limit);
  }
  #tick() {
    const now = this.#now();
    const wall = Date.now();
    const asleep = Math.max(now - this.#ticked, wall - this.#tickedByWall) > this.#tickEvery + this.#interval / 2;
    this.#ticked = now;
    this.#tickedByWall = wall;
    if (asleep) {
      this.#heard = Math.max(this.#heard, now - this.#interval);
      this.probe();
      return;
    }
    const silence = now - this.#heard;
    if (silence > this.#interval * 2.9)
      this.#silent(silence);
    else if (now - this.#beaten >= this.#interval * 0.95)
      this.#beat();
  }
  #silent(milliseconds) {
    this.stop();
    this.#events.silent(milliseconds);
  }
  #beat() {
    this.#beaten = this.#now();
    this.#events.beat();
  }
};

// dist/inbox.js
var SLICE_MS = 8;
var HIGH_WATER = 4096;
var INBOX_LIMIT = 65536;
var Inbox = class {
  #events;
  #waiting = new Fifo();
  #scheduled = false;
  #full = false;
  #atEnd;
  constructor(events) {
    this.#events = events;
  }
  add(text) {
    if (this.#waiting.length >= INBOX_LIMIT && this.#events.mayDrop(text))
      return;
    this.#waiting.push(text);
    if (!this.#scheduled) {
      this.#scheduled = true;
      nextTurn(this.#slice);
    }
    if (this.#waiting.length > HIGH_WATER && !this.#full) {
      this.#full = true;
      this.#events.full();
    }
  }
  /** Nothing more will arrive: `atEnd` follows what is waiting. */
  end(atEnd) {
    if (this.#scheduled)
      this.#atEnd = atEnd;
    else
      atEnd();
  }
  /** Drops what is waiting. */
  close() {
    this.#waiting.clear();
    this.#atEnd = void 0;
  }
  #slice = () => {
    const end = performance.now() + SLICE_MS;
    for (let text = this.#waiting.shift(); text !== void 0; text = this.#waiting.shift()) {
      if (this.#events.handle(text) || performance.now() > end) {
        nextTurn(this.#slice);
        return;
      }
    }
    this.#scheduled = false;
    if (this.#full) {
      this.#full = false;
      this.#events.emptied();
    }
    this.#atEnd?.();
  };
};
var nextTurn = (() => {
  if (typeof setImmediate === "function")
    return (task) => void setImmediate(task);
  const tasks = [];
  const channel = new MessageChannel();
  channel.port1.onmessage = () => tasks.shift()?.();
  return (task) => {
    tasks.push(task);
    channel.port2.postMessage(null);
  };
})();

// dist/open.js
init_errors();

// dist/websocket.js
init_errors();

// dist/transport.js
var HIGH_WATER_BYTES = 1 << 20;

// dist/websocket.js
var ROOM_POLL_MS = 10;
var WebSocketTransport = class {
  #socket;
  #url;
  #events;
  #opened = false;
  #failure;
  #poll;
  constructor(url, given, events) {
    const constructor = given ?? globalThis.WebSocket;
    if (!constructor) {
      throw new UsageError("this platform has no WebSocket (Node has one from version 22 on): pass one in the option `WebSocket`, such as the package ws exports, or connect to the TCP port with a jmqt:// URL");
    }
    this.#url = url;
    this.#events = events;
    try {
      this.#socket = new constructor(url);
    } catch (cause) {
      throw new UsageError(`cannot open the WebSocket ${url} here: ${cause.message}`);
    }
    this.#socket.onopen = () => {
      this.#opened = true;
      this.#events?.opened();
    };
    this.#socket.onmessage = (event) => {
      if (typeof event.data === "string")
        this.#events?.received(event.data);
    };
    this.#socket.onerror = (event) => {
      this.#failure = event.message;
    };
    this.#socket.onclose = (event) => this.#closed(event);
  }
  send(text) {
    if (this.#events)
      this.#socket.send(text);
  }
  hasRoom() {
    if (this.#socket.bufferedAmount <= HIGH_WATER_BYTES)
      return true;
    this.#poll ??= setInterval(() => {
      if (this.#socket.bufferedAmount > HIGH_WATER_BYTES)
        return;
      this.#stopPolling();
      this.#events?.writable();
    }, ROOM_POLL_MS);
    return false;
  }
  // A WebSocket cannot be paused.
  pause() {
  }
  resume() {
  }
  end() {
    this.#socket.close();
  }
  destroy() {
    this.#events = void 0;
    this.#stopPolling();
    this.#socket.close();
    this.#socket.terminate?.();
  }
  #stopPolling() {
    clearInterval(this.#poll);
    this.#poll = void 0;
  }
  #closed(event) {
    const events = this.#events;
    this.#events = void 0;
    this.#stopPolling();
    if (!events)
      return;
    events.closed(closedError(this.#url, this.#opened, event.code, event.reason ?? "", this.#failure));
  }
};
function closedError(url, opened, code, text, failure) {
  const said = failure ? ` (${failure})` : "";
  if (opened) {
    const reason = disconnectReason(code, text);
    if (reason)
      return endedByServer(url, reason);
    const ending = code === void 0 ? "" : ` with code ${code}${text === "" ? "" : `, ${text}`}`;
    return new ConnectionLostError(`the connection to ${url} was closed${ending}${said}`);
  }
  const kind = /server response|upgrade|ssl|tls|wrong version|parse error|socket hang up/i.test(said) ? WrongServerError : NetworkError;
  return new kind(`no WebSocket could be opened to ${url}${said}: check that a JMQT server runs there, that the port is its WebSocket port (usually 8012, with TLS 8013; 8010 and 8011 are TCP), and that ws:// is used without TLS, wss:// with it`);
}
function endedByServer(url, reason, isFirst = false) {
  const advice = isFirst && reason.code === DisconnectCode.BAD_PACKETS ? `; ${PORTS}` : "";
  const message = `the server ended the connection to ${url}: ${describeReason(reason)}${advice}`;
  return new ConnectionLostError(message, { reason });
}
var PORTS = "the URL may have the port of another protocol: jmqt:// is usually 8010, jmqts:// 8011, ws:// 8012, wss:// 8013";

// dist/worker.js
init_errors();
var WORKER_LIMIT = 65536;
var WorkerTransport = class {
  #url;
  #events;
  #worker;
  /** Instead of a worker that could not be made. */
  #direct;
  #ready = false;
  #opened = false;
  #paused = false;
  /** A batch was received, and the next one has not been asked for. */
  #owed = false;
  #outgoing = [];
  /** Characters given to the worker and not known to have left. */
  #unsent = 0;
  #unsentLengths = [];
  #wanted = false;
  constructor(url, events) {
    this.#url = url;
    this.#events = events;
    try {
      const { worker, release } = startWorker(`(${inWorker.toString()})()`);
      this.#worker = worker;
      this.#worker.onmessage = ({ data }) => this.#heard(data, release);
      this.#worker.onerror = (event) => {
        event.preventDefault?.();
        release();
        if (this.#ready)
          this.#failed(event.message);
        else
          this.#fallBack();
      };
      this.#order({ open: url, highWater: HIGH_WATER_BYTES, limit: WORKER_LIMIT });
    } catch {
      this.#fallBack();
    }
  }
  send(text) {
    if (this.#direct)
      return this.#direct.send(text);
    if (!this.#events)
      return;
    if (this.#outgoing.length === 0)
      queueMicrotask(() => this.#flush());
    this.#outgoing.push(text);
    this.#unsent += text.length;
  }
  hasRoom() {
    if (this.#direct)
      return this.#direct.hasRoom();
    this.#wanted = this.#unsent > HIGH_WATER_BYTES;
    return !this.#wanted;
  }
  pause() {
    this.#paused = true;
  }
  resume() {
    this.#paused = false;
    this.#askForMore();
  }
  end() {
    if (this.#direct)
      return this.#direct.end();
    this.#flush();
    this.#order({ close: true });
  }
  destroy() {
    this.#events = void 0;
    this.#direct?.destroy();
    this.#worker?.terminate();
    this.#worker = void 0;
  }
  #order(order) {
    this.#worker?.postMessage(order);
  }
  #flush() {
    if (this.#outgoing.length === 0)
      return;
    this.#unsentLengths.push(this.#outgoing.reduce((sum, text) => sum + text.length, 0));
    this.#order({ send: this.#outgoing });
    this.#outgoing = [];
  }
  #heard(report, release) {
    const events = this.#events;
    if (!events)
      return;
    if ("ready" in report) {
      this.#ready = true;
      release();
    } else if ("opened" in report) {
      this.#opened = true;
      events.opened();
    } else if ("texts" in report) {
      this.#owed = true;
      if (report.dropped > 0)
        events.dropped(report.dropped);
      for (const text of report.texts)
        events.received(text);
      if (!this.#paused)
        this.#askForMore();
    } else if ("sent" in report) {
      for (let batches = report.sent; batches > 0; batches--)
        this.#unsent -= this.#unsentLengths.shift() ?? 0;
      if (this.#wanted && this.#unsent <= HIGH_WATER_BYTES) {
        this.#wanted = false;
        events.writable();
      }
    } else if ("closed" in report) {
      this.destroy();
      events.closed(closedError(this.#url, this.#opened, report.closed.code, report.closed.reason));
    } else {
      this.destroy();
      events.closed(new UsageError(`cannot open the WebSocket ${this.#url} here: ${report.impossible}`));
    }
  }
  #askForMore() {
    if (!this.#owed)
      return;
    this.#owed = false;
    this.#order({ more: true });
  }
  #failed(message) {
    const events = this.#events;
    this.destroy();
    events?.closed(new ConnectionLostError(`the worker with the connection to ${this.#url} failed: ${message}`));
  }
  /** Nothing has been sent yet: that waits for `opened`. */
  #fallBack() {
    this.#worker?.terminate();
    this.#worker = void 0;
    if (!this.#events || this.#direct)
      return;
    this.#direct = new WebSocketTransport(this.#url, void 0, this.#events);
  }
};
function inWorker() {
  const ROOM_POLL_MS2 = 10;
  const scope = globalThis;
  let socket;
  let highWater = 0;
  let limit = 0;
  let batch = [];
  let dropped = 0;
  let mayPost = true;
  let unreported = 0;
  let polling;
  const post = () => {
    if (!mayPost || batch.length === 0)
      return;
    mayPost = false;
    scope.postMessage({ texts: batch, dropped });
    batch = [];
    dropped = 0;
  };
  const mayDrop = (text) => {
    try {
      const { push } = JSON.parse(text);
      return push !== void 0 && (push.q === void 0 || Number(push.q) === 0);
    } catch {
      return true;
    }
  };
  const tellOfRoom = () => {
    if (unreported === 0 || !socket || socket.bufferedAmount > highWater)
      return;
    scope.postMessage({ sent: unreported });
    unreported = 0;
    clearInterval(polling);
    polling = void 0;
  };
  scope.onmessage = ({ data: order }) => {
    if ("open" in order) {
      ({ highWater, limit } = order);
      try {
        socket = new WebSocket(order.open);
      } catch (error) {
        scope.postMessage({ impossible: error.message });
        return;
      }
      socket.onopen = () => scope.postMessage({ opened: true });
      socket.onmessage = ({ data }) => {
        if (typeof data !== "string")
          return;
        if (batch.length >= limit && mayDrop(data)) {
          dropped++;
          return;
        }
        batch.push(data);
        post();
      };
      socket.onclose = ({ code, reason }) => {
        clearInterval(polling);
        mayPost = true;
        post();
        scope.postMessage({ closed: { code, reason } });
      };
    } else if ("send" in order) {
      for (const text of order.send)
        socket?.send(text);
      unreported++;
      tellOfRoom();
      if (unreported > 0)
        polling ??= setInterval(tellOfRoom, ROOM_POLL_MS2);
    } else if ("more" in order) {
      mayPost = true;
      post();
    } else {
      socket?.close();
    }
  };
  scope.postMessage({ ready: true });
}

// dist/open.js
function openTransport(options, events) {
  const url = parseUrl(options.url);
  switch (url.protocol) {
    case "ws:":
    case "wss:":
      if (options.worker && !options.WebSocket && hasWorkers())
        return new WorkerTransport(url.href, events);
      return new WebSocketTransport(url.href, options.WebSocket, events);
    default:
      return new LateTransport(Promise.resolve().then(() => (init_socket_browser(), socket_browser_exports)).then(({ openSocket: openSocket2 }) => openSocket2(url, options, events)), events);
  }
}
function parseUrl(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
  }
  const known = ["ws:", "wss:", "jmqt:", "jmqts:"];
  if (!url || !known.includes(url.protocol) || url.hostname === "") {
    throw new UsageError(`${JSON.stringify(text)} is not the URL of a JMQT server: expected ws://host:8012, wss://host:8013, or, in Node, jmqt://host:8010 or jmqts://host:8011`);
  }
  return url;
}
var LateTransport = class {
  #transport;
  #destroyed = false;
  constructor(loading, events) {
    loading.then((transport) => {
      this.#transport = transport;
      if (this.#destroyed)
        transport.destroy();
    }, (error) => {
      if (!this.#destroyed)
        events.closed(error);
    });
  }
  send(text) {
    this.#transport?.send(text);
  }
  hasRoom() {
    return this.#transport?.hasRoom() ?? false;
  }
  pause() {
    this.#transport?.pause();
  }
  resume() {
    this.#transport?.resume();
  }
  end() {
    if (this.#transport)
      this.#transport.end();
    else
      this.destroy();
  }
  destroy() {
    this.#destroyed = true;
    this.#transport?.destroy();
  }
};

// dist/session.js
var LINGER_MS = 2e3;
var Session = class {
  /** Fulfilled when the far end can be spoken to, rejected if that never happens. */
  opened;
  #url;
  /** The page allows workers. */
  #workers;
  #events;
  #transport;
  #inbox;
  #auths = new Fifo();
  #conns = new Fifo();
  #subs = new Fifo();
  #unsubs = new Fifo();
  #open;
  #heartbeat;
  #beats = 0;
  #beatsAnswered = 0;
  #understood = false;
  #leaving = false;
  #closed;
  #error;
  constructor(options, events) {
    this.#url = options.url;
    this.#workers = options.worker ?? false;
    this.#events = events;
    this.#inbox = new Inbox({
      handle: (text) => this.#handle(text),
      full: () => this.#transport.pause(),
      emptied: () => this.#transport.resume(),
      mayDrop: (text) => this.#mayDrop(text)
    });
    this.opened = new Promise((resolve, reject) => {
      this.#open = { resolve, reject };
    });
    this.opened.catch(() => {
    });
    this.#transport = openTransport(options, {
      opened: () => this.#open?.resolve(),
      received: (text) => {
        this.#heartbeat?.heard();
        this.#inbox.add(text);
      },
      dropped: (count) => {
        for (let index = 0; index < count; index++)
          this.#events.dropped();
      },
      writable: () => this.#events.writable(),
      // What arrived before the end is handled before the end.
      closed: (error) => this.#inbox.end(() => this.#ended(error))
    });
  }
  /** Whether anything was received that makes sense. */
  get understood() {
    return this.#understood;
  }
  get alive() {
    return this.#error === void 0;
  }
  /** Why it has ended. */
  get error() {
    return this.#error;
  }
  auth(data) {
    return this.#ask(this.#auths, encodeAuth(data));
  }
  async conn(credentials, window, publisher) {
    return this.#ask(this.#conns, encodeConn(credentials.token, credentials.clientId, window, publisher));
  }
  /** `key` is the name of a channel, or the key of a filter. */
  sub(key, persistent) {
    return this.#ask(this.#subs, encodeSub(key, persistent), key);
  }
  unsub(key) {
    return this.#ask(this.#unsubs, encodeUnsub(key), key);
  }
  send(text) {
    if (!this.#error)
      this.#transport.send(text);
  }
  hasRoom() {
    return this.#transport.hasRoom();
  }
  /** Sends a heartbeat. Returns its number on this connection. */
  beat() {
    this.send(HEARTBEAT);
    return ++this.#beats;
  }
  acknowledge(id) {
    this.send(encodePushAck(id));
  }
  /** Ends the session if the far end does not answer within a few seconds. Without effect before there is a session. */
  probe() {
    this.#heartbeat?.probe();
  }
  /** Says goodbye (§7.o). The server answers what it has, and closes. */
  leave() {
    this.#leaving = true;
    this.send(DISCONN);
  }
  /** Sends what is queued, and closes. Done when it is closed, or after a bounded wait for that. */
  close() {
    this.#leaving = true;
    this.#heartbeat?.stop();
    if (this.#error)
      return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.destroy(new ConnectionLostError(`${this.#url} did not close`)), LINGER_MS);
      this.#closed = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#transport.end();
    });
  }
  /** Ends at once, for this reason. */
  destroy(error) {
    this.#transport.destroy();
    this.#inbox.close();
    this.#ended(error);
  }
  #ask(line, text, key) {
    if (this.#error)
      return Promise.reject(this.#error);
    this.#transport.send(text);
    return new Promise((resolve, reject) => {
      line.push({ ...key === void 0 ? {} : { key }, resolve, reject });
    });
  }
  /** `true` where the application shall run before the next packet. */
  #handle(text) {
    if (this.#error)
      return false;
    let packet;
    try {
      packet = decode(text);
    } catch (error) {
      if (!(error instanceof BadPacket))
        throw error;
      if (!this.#understood) {
        const start = JSON.stringify(text.slice(0, 40));
        const problem = `${this.#url} is not a JMQT server: ${error.message}, beginning with ${start}`;
        this.destroy(new WrongServerError(problem));
      }
      return false;
    }
    const isFirst = !this.#understood;
    this.#understood = true;
    switch (packet.type) {
      case "push":
        if (!this.#leaving)
          this.#events.push(packet, text);
        return false;
      case "pubAck":
        this.#events.pubAck(packet, text);
        return false;
      case "hbAck":
        this.#heartbeat?.answered();
        this.#events.beatAnswered(++this.#beatsAnswered);
        return false;
      case "subAck":
        answer(this.#subs, "sub", packet);
        return true;
      // who has subscribed can get ready for the retained message, which is next
      case "unsubAck":
        answer(this.#unsubs, "unsub", packet);
        return true;
      case "authAck": {
        const question = this.#auths.shift();
        if (packet.status === Status.OK)
          question?.resolve({ token: packet.token, clientId: packet.clientId });
        else
          question?.reject(new RefusedError("auth", packet.status, void 0, packet.message));
        return true;
      }
      case "connAck": {
        const question = this.#conns.shift();
        if (packet.status !== Status.OK) {
          question?.reject(new RefusedError("conn", packet.status));
        } else {
          this.#keepAlive(packet.timeoutSeconds);
          question?.resolve({ timeoutSeconds: packet.timeoutSeconds, publishesOnce: packet.publishesOnce });
        }
        return true;
      }
      case "disconn": {
        const { code, text: words, seconds } = packet;
        const reason = disconnectReason(code, words, seconds);
        this.destroy(reason ? endedByServer(this.#url, reason, isFirst) : new ConnectionLostError(`the server ended the connection to ${this.#url} with code ${code}: ${words}`));
        return true;
      }
    }
  }
  #keepAlive(timeoutSeconds) {
    this.#heartbeat?.stop();
    const events = {
      beat: () => void this.beat(),
      silent: (milliseconds) => {
        const seconds = (milliseconds / 1e3).toFixed(1);
        this.destroy(new ConnectionLostError(`no data from ${this.#url} for ${seconds} seconds`));
      }
    };
    this.#heartbeat = new Heartbeat(timeoutSeconds, events, void 0, this.#workers);
  }
  #mayDrop(text) {
    try {
      const packet = decode(text);
      if (packet.type !== "push" || packet.qos === 1)
        return false;
      this.#events.dropped();
    } catch {
    }
    return true;
  }
  #ended(error) {
    if (this.#error)
      return;
    this.#error = error;
    this.#heartbeat?.stop();
    this.#open?.reject(error);
    for (const line of [this.#auths, this.#conns, this.#subs, this.#unsubs]) {
      for (const question of line.clear())
        question.reject(error);
    }
    this.#events.ended(error);
    this.#closed?.();
  }
};
function answer(line, request, packet) {
  const { status, channel, filter } = packet;
  const find = (key2) => {
    for (let i = 0; i < line.length; i++)
      if (line.at(i)?.key === key2)
        return line.at(i);
    return void 0;
  };
  const question = channel === void 0 ? line.at(0) : filter ? find(` ${channel}`) : find(channel) ?? find(` ${channel}`);
  if (!question)
    return;
  line.remove(question);
  const { key } = question;
  if (key !== void 0 && channel !== void 0 && isFilterKey(key) && !filter) {
    question.reject(new UnsupportedError(request, nameOf(key)));
  } else if (status === Status.OK)
    question.resolve();
  else
    question.reject(new RefusedError(request, status, key === void 0 ? void 0 : nameOf(key)));
}

// dist/subscription.js
init_errors();
var ChannelSubscription = class {
  key;
  /** Gives up its place among those who want the channel. */
  release = () => {
  };
  /** The server has confirmed it at least once. */
  confirmed = false;
  channel;
  filter;
  persistent;
  #owner;
  #events;
  #listeners = /* @__PURE__ */ new Map();
  #streams = /* @__PURE__ */ new Set();
  #state = "subscribing";
  #error;
  #muted = false;
  #waiters = [];
  /** `key` is the name of the channel, or the key of the filter. */
  constructor(owner, key, persistent) {
    this.key = key;
    this.#owner = owner;
    this.channel = nameOf(key);
    this.filter = isFilterKey(key);
    this.persistent = persistent;
    this.#events = new Events((error) => owner.report(error));
  }
  get state() {
    return this.#state;
  }
  get error() {
    return this.#error;
  }
  on(name, listener) {
    if (name === "state") {
      const stateListener = listener;
      this.#events.on("state", stateListener);
      return () => this.#events.off("state", stateListener);
    }
    const own = (message) => listener(message);
    if (this.#state !== "unsubscribed") {
      this.#listeners.set(own, this.#muted ? void 0 : this.#owner.listen(this.key, own));
    }
    return () => {
      this.#listeners.get(own)?.();
      this.#listeners.delete(own);
    };
  }
  ready(options = {}) {
    if (this.#state === "subscribed")
      return Promise.resolve();
    if (this.#state === "unsubscribed")
      return Promise.reject(this.#error ?? this.#over());
    let waiter;
    return limited(`subscribing to ${JSON.stringify(this.channel)}`, options, 0, (resolve, reject) => this.#waiters.push(waiter = { resolve, reject }), () => this.#waiters = this.#waiters.filter((other) => other !== waiter));
  }
  unsub(options = {}) {
    return this.#state === "unsubscribed" ? Promise.resolve() : this.#owner.unsub(this, options);
  }
  [Symbol.asyncIterator]() {
    const stream = this.#owner.messages(this.key);
    if (this.#state === "unsubscribed")
      stream.end(this.#error);
    else
      this.#streams.add(stream);
    return stream;
  }
  /** The application has asked for its end: its listeners hear no more. */
  mute() {
    this.#muted = true;
    for (const [listener, stop] of this.#listeners) {
      stop?.();
      this.#listeners.set(listener, void 0);
    }
  }
  /** The server has refused to end it. */
  unmute() {
    if (!this.#muted || this.#state === "unsubscribed")
      return;
    this.#muted = false;
    for (const listener of this.#listeners.keys()) {
      this.#listeners.set(listener, this.#owner.listen(this.key, listener));
    }
  }
  subscribed() {
    if (this.#state === "unsubscribed")
      return;
    this.confirmed = true;
    this.#enter("subscribed", void 0);
    for (const { resolve } of this.#waiters.splice(0))
      resolve();
  }
  /** The session has ended, or the server has refused to make it again for now. */
  lost(error) {
    if (this.#state !== "unsubscribed")
      this.#enter("subscribing", error);
  }
  /** It is over. With others to its channel, what its readers have not taken goes back to those. */
  end(error, others) {
    if (this.#state === "unsubscribed")
      return;
    this.mute();
    this.#listeners.clear();
    if (others)
      for (const stream of this.#streams)
        void stream.return();
    this.#streams.clear();
    this.release();
    for (const { reject } of this.#waiters.splice(0))
      reject(error ?? this.#over());
    this.#enter("unsubscribed", error);
  }
  #over() {
    return new ClosedError(`the subscription to ${JSON.stringify(this.channel)} has ended`);
  }
  #enter(state, error) {
    if (this.#state === state && this.#error === error)
      return;
    this.#state = state;
    this.#error = error;
    this.#events.emit("state", { state, error });
  }
};

// dist/subscriptions.js
init_errors();
var Subscriptions = class {
  /** By channel, in the order they were made in. Those whose end was asked for are not among them. */
  #active = /* @__PURE__ */ new Map();
  /** Without an answer, in the order they were made in. */
  #calls = /* @__PURE__ */ new Set();
  #events;
  #random;
  #wire;
  #retries = /* @__PURE__ */ new Set();
  constructor(events, random) {
    this.#events = events;
    this.#random = random;
  }
  /** Channels and whether the subscription is persistent. */
  get active() {
    const active = /* @__PURE__ */ new Map();
    for (const [channel, subscriptions] of this.#active) {
      if (isFilterKey(channel))
        continue;
      const one = [...subscriptions].find(({ confirmed }) => confirmed);
      if (one)
        active.set(channel, one.persistent);
    }
    return active;
  }
  /** @throws UsageError if it contradicts the subscription there is. */
  check(channel, persistent) {
    const [active] = this.#active.get(channel) ?? [];
    if (!active || active.persistent === persistent)
      return;
    const [is, not] = active.persistent ? ["persistent", "temporary"] : ["temporary", "persistent"];
    throw new UsageError(`the subscription to ${JSON.stringify(nameOf(channel))} is ${is}: to make it ${not}, unsubscribe first (§9.c)`);
  }
  /** The subscriptions to a channel whose end nobody has asked for. */
  of(channel) {
    return [...this.#active.get(channel) ?? []];
  }
  /** Ends one of several, of which the server need not hear. */
  leave(subscription) {
    this.#remove(subscription);
    subscription.end(void 0, true);
  }
  /** Makes the call now, or when there is a session. What is returned gives it up. */
  add(call) {
    this.#calls.add(call);
    if (call.kind === "sub") {
      for (const subscription of call.subscriptions)
        this.#insert(subscription);
    } else {
      for (const subscription of call.subscriptions) {
        this.#remove(subscription);
        subscription.mute();
      }
    }
    if (this.#wire)
      void this.#make(call, this.#wire);
    return (error) => {
      this.#calls.delete(call);
      if (call.kind === "sub")
        this.#end(call.subscriptions, error, false);
    };
  }
  /** There is a session: makes everything again. Done when all of it is answered. */
  async attach(wire) {
    this.#wire = wire;
    const called = new Set([...this.#calls].map(({ channel }) => channel));
    const again = [...this.#active.keys()].filter((channel) => !called.has(channel)).map((channel) => this.#again(channel, wire, void 0));
    const calls = [...this.#calls].map((call) => this.#make(call, wire));
    await Promise.all([...again, ...calls]);
  }
  detach() {
    this.#wire = void 0;
    for (const timer of this.#retries)
      clearTimeout(timer);
    this.#retries.clear();
    for (const subscriptions of this.#active.values())
      for (const one of subscriptions)
        one.lost();
  }
  /** No session will come by itself: calls fail. What was confirmed is made again if the application connects again. */
  suspend(error) {
    this.detach();
    for (const call of this.#calls) {
      this.#end(call.subscriptions, error, false);
      call.reject(error);
    }
    this.#calls.clear();
  }
  /** Ends everything, with this error. */
  close(error) {
    this.suspend(error);
    const told = error instanceof ClosedError ? void 0 : error;
    const all = [...this.#active.values()].flatMap((subscriptions) => [...subscriptions]);
    this.#active.clear();
    for (const subscription of all)
      subscription.end(told, false);
  }
  #insert(subscription) {
    const { key } = subscription;
    const subscriptions = this.#active.get(key);
    if (subscriptions)
      subscriptions.add(subscription);
    else
      this.#active.set(key, /* @__PURE__ */ new Set([subscription]));
  }
  #remove(subscription) {
    const subscriptions = this.#active.get(subscription.key);
    subscriptions?.delete(subscription);
    if (subscriptions?.size === 0)
      this.#active.delete(subscription.key);
  }
  /** Ends these; `over`: the server has ended its subscription, and so the channel ends if there are no others. */
  #end(subscriptions, error, over) {
    for (const subscription of subscriptions)
      this.#remove(subscription);
    const [channel] = subscriptions.map((subscription) => subscription.key);
    const others = channel !== void 0 && this.#active.has(channel);
    for (const subscription of subscriptions)
      subscription.end(error, others);
    if (over && channel !== void 0 && !others)
      this.#events.ended(channel, error);
  }
  /** Whether a call about this channel waits for its answer. */
  #called(channel) {
    return [...this.#calls].some((call) => call.channel === channel);
  }
  /** Makes what was confirmed on an earlier session. Refused for now, it is tried again after a while. */
  async #again(channel, wire, backoff) {
    const [first] = this.of(channel);
    if (!first)
      return;
    try {
      await wire.sub(channel, first.persistent);
    } catch (error) {
      if (!(error instanceof RefusedError))
        throw error;
      if (error instanceof UnsupportedError)
        this.#leaveNamesake(channel, wire);
      if (this.#wire !== wire || this.#called(channel))
        return;
      const left = this.of(channel);
      if (isFinal(error)) {
        this.#end(left, error, true);
        this.#events.report(error);
        return;
      }
      for (const subscription of left)
        subscription.lost(error);
      this.#retry(channel, wire, backoff ?? new Backoff(this.#random ? { random: this.#random } : {}));
      return;
    }
    for (const subscription of this.of(channel))
      subscription.subscribed();
  }
  #retry(channel, wire, backoff) {
    const timer = setTimeout(() => {
      this.#retries.delete(timer);
      if (this.#wire !== wire || this.#called(channel))
        return;
      this.#again(channel, wire, backoff).catch(() => {
      });
    }, backoff.next() ?? 0);
    this.#retries.add(timer);
  }
  async #make(call, wire) {
    const { kind, channel, persistent, subscriptions } = call;
    try {
      await (kind === "sub" ? wire.sub(channel, persistent) : wire.unsub(channel));
    } catch (error) {
      if (!(error instanceof RefusedError))
        return;
      if (kind === "sub" && error instanceof UnsupportedError)
        this.#leaveNamesake(channel, wire);
      if (!this.#calls.delete(call) && kind === "sub")
        return;
      if (kind === "sub") {
        this.#end(subscriptions, error, false);
        const lost = this.of(channel).some(({ confirmed, state }) => confirmed && state === "subscribing");
        if (lost && this.#wire === wire && !this.#called(channel))
          this.#again(channel, wire, void 0).catch(() => {
          });
      } else {
        for (const subscription of subscriptions) {
          if (subscription.state === "unsubscribed")
            continue;
          this.#insert(subscription);
          subscription.unmute();
        }
      }
      call.reject(error);
      return;
    }
    const wanted = this.#calls.delete(call);
    if (kind === "unsub") {
      this.#end(subscriptions, void 0, true);
      if (subscriptions.length === 0 && !this.#active.has(channel))
        this.#events.ended(channel);
    } else if (wanted) {
      for (const subscription of subscriptions)
        subscription.subscribed();
      for (const subscription of this.of(channel))
        subscription.subscribed();
    } else if (!persistent) {
      this.#takeBack(channel, wire);
    }
    call.resolve();
  }
  /** The server has subscribed this client to the channel that has the name of a filter (protocol.md 2.25). */
  #leaveNamesake(filter, wire) {
    const name = nameOf(filter);
    if (this.#wire !== wire || this.#active.has(name) || this.#called(name))
      return;
    wire.unsub(name).catch(() => {
    });
  }
  /**
   * The server has made a subscription that was given up meanwhile. Its messages would wait for nobody. A persistent
   * one is left: it may have been there before, with messages that are kept for it.
   */
  #takeBack(channel, wire) {
    if (this.#wire !== wire || this.#active.has(channel) || this.#called(channel))
      return;
    wire.unsub(channel).then(() => {
      if (!this.#active.has(channel))
        this.#events.ended(channel);
    }, () => {
    });
  }
};
function isFinal(error) {
  if (error instanceof UnsupportedError)
    return true;
  if (error instanceof RefusedError)
    return [6, 7, 10, 11].includes(error.status);
  if (!(error instanceof JmqtError))
    return true;
  if ("reason" in error && error.reason?.mayReconnect === false)
    return true;
  return error.code === "USAGE" || error.code === "UNAUTHORIZED";
}

// dist/tokens.js
init_errors();
var AHEAD_MS = 6e4;
var LEAST_MS = 1e3;
var LONGEST_TIMER_MS = 2 ** 31 - 1;
var Tokens = class {
  #options;
  #credentials;
  /** Of the last successful `auth`, for a new token. */
  #authData;
  /** The token is known to be of no use. */
  #expired = false;
  #timer;
  constructor(options) {
    this.#options = options;
    this.#authData = options.authData;
    this.#credentials = options.given;
  }
  get clientId() {
    return this.#credentials.clientId;
  }
  /** From now on with these. @throws UsageError if there is neither a token nor a way to get one. */
  use(credentials) {
    const before = this.#credentials;
    const { token, clientId } = { ...before, ...credentials };
    const complete = token !== void 0 && clientId !== void 0;
    if (!complete && !this.#options.refreshToken && !this.#authData) {
      throw new UsageError("a session needs a token and a client id: call auth first, pass both, or set the option auth or refreshToken");
    }
    if (before.clientId !== void 0 && before.clientId !== clientId)
      this.#authData = void 0;
    const known = credentials.token === void 0 ? before.expiresAt : void 0;
    this.#credentials = { token, clientId, expiresAt: credentials.expiresAt ?? known };
    if (credentials.token !== void 0)
      this.#expired = false;
  }
  /** The credentials to connect with: new ones if those there are are of no use. @throws what `refresh` throws. */
  async current() {
    const { token, clientId, expiresAt } = this.#credentials;
    const late = expiresAt !== void 0 && Date.now() >= expiresAt;
    if (token === void 0 || clientId === void 0 || this.#expired || late)
      await this.#refresh();
    return this.#credentials;
  }
  /** The server no longer accepts the credentials (these, or any). Returns whether there is a way to get new ones. */
  expire(credentials) {
    if (credentials === void 0 || credentials.token === this.#credentials.token)
      this.#expired = true;
    return this.#options.refreshToken !== void 0 || this.#authData !== void 0;
  }
  /** Asks the server for a token, and keeps it. */
  async authenticate(data) {
    const credentials = await this.#options.authenticate(data);
    this.#authData = { data };
    this.#keep(credentials);
    return credentials;
  }
  /** There is a session: replaces the token before it expires, if it is known when that is. */
  refreshAhead(failed) {
    this.rest();
    const { expiresAt } = this.#credentials;
    if (expiresAt === void 0 || !this.#options.refreshToken)
      return;
    const left = expiresAt - Date.now();
    const wait = Math.max(left - AHEAD_MS, left * 0.9, LEAST_MS);
    this.#refreshIn(wait, failed, new Backoff({ initialDelay: LEAST_MS }));
  }
  /** There will be no session for now. */
  rest() {
    clearTimeout(this.#timer);
    this.#timer = void 0;
  }
  #refreshIn(milliseconds, failed, backoff) {
    const part = Math.min(milliseconds, LONGEST_TIMER_MS);
    const timer = setTimeout(() => {
      if (part < milliseconds) {
        this.#refreshIn(milliseconds - part, failed, backoff);
        return;
      }
      this.#refresh().then(() => {
        if (this.#timer === timer)
          this.refreshAhead(failed);
      }, (error) => {
        failed(error);
        if (this.#timer !== timer || error instanceof JmqtError && error.code === "UNAUTHORIZED")
          return;
        this.#refreshIn(LEAST_MS + (backoff.next() ?? 0), failed, backoff);
      });
    }, part);
    this.#timer = timer;
  }
  async #refresh() {
    const { refreshToken, authenticate } = this.#options;
    if (refreshToken) {
      try {
        this.#keep(await refreshToken({ clientId: this.clientId ?? "", authenticate }));
      } catch (error) {
        if (error instanceof JmqtError)
          throw error;
        const words = error instanceof Error ? error.message : String(error);
        throw new NetworkError(`refreshToken failed: ${words}`, { cause: error });
      }
      return;
    }
    if (!this.#authData)
      throw new RefusedError("conn", Status.INVALID_TOKEN);
    await this.authenticate(this.#authData.data);
  }
  #keep(credentials) {
    this.#credentials = credentials;
    this.#expired = false;
  }
};

// dist/wake.js
function onWake(events) {
  const { document, addEventListener } = globalThis;
  const scope = typeof addEventListener === "function" ? globalThis : void 0;
  const awake = () => events.awake();
  const offline = () => events.offline();
  const visible = () => {
    if (document?.visibilityState === "visible")
      events.awake();
  };
  const all = [
    [scope, "online", awake],
    [scope, "pageshow", awake],
    [scope, "offline", offline],
    [document, "visibilitychange", visible]
  ];
  for (const [target, name, listener] of all)
    target?.addEventListener(name, listener);
  return () => {
    for (const [target, name, listener] of all)
      target?.removeEventListener(name, listener);
  };
}

// dist/client.js
var LEAVE_MS = 5e3;
var OPEN_MS = 3e4;
var Client = class {
  /** Counted since the client was made. */
  counters = { droppedPushes: 0, droppedPublishes: 0 };
  #options;
  #timeout;
  #maxPacketBytes;
  #window;
  #events = new Events((error) => this.#report(error));
  #deliveries;
  #outbox;
  #subscriptions;
  #backoff;
  #tokens;
  /** Chosen at random for this client (protocol.md 2.23). */
  #publisher = publisherId();
  #state = "idle";
  /** The state that listeners were told of. */
  #toldState = "idle";
  #reason;
  #session;
  /** The client of the last session. */
  #lastClient;
  #connected;
  #connectedAt = 0;
  #waiters = /* @__PURE__ */ new Set();
  #closing = Promise.resolve();
  #stopListening;
  #retry;
  /** The server has asked not to be connected to before this time. */
  #notBefore = 0;
  /** Rises with each attempt and with its end, so that what still waits for an old one does no harm. */
  #epoch = 0;
  /** @throws UsageError if an option makes no sense. Connects to nothing yet. */
  constructor(options) {
    parseUrl(options.url);
    this.#options = options;
    this.#timeout = options.timeout ?? 3e4;
    this.#maxPacketBytes = options.maxPacketBytes ?? 4 << 20;
    this.#window = wholeNumber("window", options.window ?? 128, 1, 4096);
    this.#tokens = new Tokens({
      given: { token: options.token, clientId: options.clientId, expiresAt: options.expiresAt },
      authData: "auth" in options ? { data: options.auth } : void 0,
      refreshToken: options.refreshToken,
      authenticate: async (data) => (await this.#connection()).auth(data)
    });
    this.#deliveries = new Deliveries({
      manual: options.ack === "manual",
      limit: wholeNumber("iteratorLimit", options.iteratorLimit ?? 1e3, 1, 1e9),
      window: this.#window,
      acknowledge: (id) => this.#session?.acknowledge(id),
      report: (error) => this.#report(error),
      dropped: () => void this.counters.droppedPushes++
    });
    this.#outbox = new Outbox({
      limit: wholeNumber("queueLimit", options.queueLimit ?? 1e3, 1, 1e9),
      full: options.queueFull ?? "wait",
      inFlight: wholeNumber("publishWindow", options.publishWindow ?? 1e3, 1, MAX_IN_FLIGHT),
      dropped: () => void this.counters.droppedPublishes++
    });
    const random = options.reconnect === false ? void 0 : options.reconnect?.random;
    this.#subscriptions = new Subscriptions({
      ended: (channel, error) => this.#deliveries.end(channel, error),
      report: (error) => this.#report(error)
    }, random);
    this.#backoff = options.reconnect === false ? void 0 : new Backoff(options.reconnect ?? {});
  }
  get state() {
    return this.#state;
  }
  /** Why the last session has ended, where the server said so (protocol.md 2.22). `undefined` while there is one. */
  get disconnectReason() {
    return this.#reason;
  }
  /** Known after `auth`, or as it was given. */
  get clientId() {
    return this.#tokens.clientId;
  }
  /** The channels this client has subscribed to, and whether persistently; not the filters. */
  get subscriptions() {
    return this.#subscriptions.active;
  }
  /** Publishes that wait for a session, and those that wait for their acknowledgement. */
  get pending() {
    return { waiting: this.#outbox.waiting, inFlight: this.#outbox.inFlight };
  }
  /** Listens; the function that is returned ends that. */
  on(name, listener) {
    if (name === "push")
      this.#deliveries.listen(listener);
    else
      this.#events.on(name, listener);
    return () => this.off(name, listener);
  }
  off(name, listener) {
    if (name === "push")
      this.#deliveries.unlisten(listener);
    else
      this.#events.off(name, listener);
  }
  /**
   * Asks for a token (§7.a) and keeps it for `conn`.
   *
   * @throws RefusedError with the server's words in `reply`; NetworkError; TimeoutError; AbortedError.
   */
  auth(data, options = {}) {
    return this.#limited("auth", options, async () => {
      if (this.#state === "reconnecting" || this.#state === "closing") {
        throw new UsageError(`cannot call auth while the client is ${this.#state}; call disconnect first`);
      }
      return this.#tokens.authenticate(data);
    });
  }
  /**
   * Opens the session (§7.c). Done when the server has accepted it and the subscriptions are made. One attempt: what
   * follows a session that was lost is up to the option `reconnect`. `connect` goes on trying from the first attempt.
   *
   * @throws RefusedError; NetworkError and its kin; UsageError without a token and client id.
   */
  async conn(credentials = {}, options = {}) {
    if (this.#state === "closing")
      await this.#closing;
    if (this.#state !== "idle") {
      throw new UsageError(`cannot call conn while the client is ${this.#state}; call disconnect first`);
    }
    this.#begin(credentials);
    const epoch = ++this.#epoch;
    try {
      return await this.#limited("conn", options, () => this.#open(false, epoch));
    } catch (error) {
      if (epoch === this.#epoch) {
        this.#epoch++;
        this.#state = "idle";
        this.#detach(error);
        if (!(error instanceof RefusedError))
          this.#drop(error);
        this.#rest(error);
        this.#tellState();
      }
      throw error;
    }
  }
  /**
   * Connects, and goes on trying until there is a session, the server says that trying again is of no use, or `disconnect`
   * is called. `ready` waits for the session; `connected`, `reconnecting` and `disconnect` tell of the attempts. Without
   * effect while the client is at it. Without a token, `refreshToken` or the option `auth` get one.
   *
   * @throws UsageError if there is neither a token nor a way to get one.
   */
  connect(credentials = {}) {
    if (this.#state === "closing") {
      void this.#closing.then(() => this.connect(credentials));
      return;
    }
    if (this.#state !== "idle")
      return;
    this.#begin(credentials);
    this.#backoff?.reset();
    void this.#attempt(false);
  }
  /**
   * The session, as soon as there is one.
   *
   * @throws what ended the attempts; ClosedError if nothing leads to a session; TimeoutError; AbortedError.
   */
  ready(options = {}) {
    if (this.#state === "connected" && this.#connected)
      return Promise.resolve(this.#connected);
    if (this.#state === "closing")
      return this.#closing.then(() => this.ready(options));
    if (this.#state === "idle")
      return Promise.reject(new ClosedError("the client is not connecting; call connect first"));
    let waiter;
    return limited("connecting", options, 0, (resolve, reject) => this.#waiters.add(waiter = { resolve, reject }), () => waiter && this.#waiters.delete(waiter));
  }
  /**
   * Connects again after the attempts have ended, for example because another connection of the same client took over
   * (`disconnectReason`): with the same client id, and the subscriptions there were. While an attempt is waited for, it
   * begins at once.
   */
  reconnect(options = {}) {
    if (this.#state === "idle")
      this.connect();
    else
      this.reconnectNow();
    return this.ready(options);
  }
  /**
   * Subscribes (§7.g). Also without a session: then it is done when there is one. It is made again after
   * each reconnect.
   *
   * @throws RefusedError; UnsupportedError if the server does not know filters; UsageError for an invalid name;
   * TimeoutError; AbortedError.
   */
  async sub(channel, options = {}) {
    const { subscription, made } = this.#subscribe(channel, options);
    await made;
    return subscription;
  }
  /**
   * The same, with the subscription at once: its `ready()` waits for the server, its `state` events tell what becomes of
   * it, and its `unsub()` ends it, however far it has come.
   *
   * @throws UsageError for an invalid name.
   */
  subscribe(channel, options = {}) {
    const { subscription, made } = this.#subscribe(channel, options);
    made.catch(() => {
    });
    return subscription;
  }
  #subscribe(channel, options) {
    const name = options.filter ? filterKey(channel) : channelName(channel);
    const persistent = options.persistent ?? false;
    this.#subscriptions.check(name, persistent);
    const subscription = new ChannelSubscription({
      listen: (from, listener) => this.#deliveries.listenTo(from, listener),
      messages: (from) => this.#deliveries.messages(from),
      unsub: (one, unsubOptions) => this.#unsubscribe(one, unsubOptions),
      report: (error) => this.#report(error)
    }, name, persistent);
    subscription.release = this.#deliveries.want(name);
    if (options.onPush)
      subscription.on("push", options.onPush);
    const made = this.#subscription("sub", name, persistent, [subscription], options);
    made.catch((error) => subscription.end(error, false));
    return { subscription, made };
  }
  /**
   * Ends all subscriptions of this client to a channel (§7.i), and the iterators over its messages once they are empty.
   * To end one of several subscriptions, call its own `unsub`.
   */
  async unsub(channel, options = {}) {
    const name = options.filter ? filterKey(channel) : channelName(channel);
    await this.#subscription("unsub", name, false, this.#subscriptions.of(name), options);
  }
  async #unsubscribe(subscription, options) {
    const all = this.#subscriptions.of(subscription.key);
    if (!all.includes(subscription))
      return;
    if (all.length > 1)
      this.#subscriptions.leave(subscription);
    else
      await this.#subscription("unsub", subscription.key, false, all, options);
  }
  /**
   * The messages of one channel, subscribed to by this client or by the server: the presence channel, the
   * client's own `#` channel. Begins with those that nobody has taken yet.
   */
  messages(channel) {
    return this.#deliveries.messages(channelName(channel));
  }
  /**
   * Publishes (§7.k). With QoS 1 done when the server has stored it; with QoS 0 when it was sent, or has
   * its place in the queue. Also without a session. QoS 1 is sent again after a reconnect until it is
   * acknowledged: a server that follows protocol.md 2.23 stores it once, with another it may arrive twice.
   *
   * @throws RefusedError (QoS 1, or `checked`); ConnectionLostError (QoS 0 that is `checked`); QueueFullError; ClosedError; UsageError; TimeoutError; AbortedError.
   */
  pub(channel, data, options = {}) {
    const qos = options.qos ?? 0;
    if (qos !== 0 && qos !== 1)
      return Promise.reject(new UsageError(`qos must be 0 or 1, not ${String(qos)}`));
    return this.#publish("pub", channel, data, qos, options.retain ?? false, options, 0, options.checked).then((answer2) => ({ id: answer2?.id }));
  }
  /** Publishes to one client (§9.d). @throws RefusedError with status 8 (QoS 1, or `checked`) if it is away. */
  p2p(clientId, data, options = {}) {
    return this.pub(`#${clientId}`, data, options);
  }
  async request(channel, data, options = {}) {
    if (!channelName(channel).startsWith("$")) {
      throw new UsageError(`${JSON.stringify(channel)} is not a control channel: those begin with $`, Status.INVALID_CHANNEL);
    }
    const answer2 = await this.#publish("request", channel, data, 0, false, options, this.#timeout);
    return options.raw ? new RawJson(rawData(answer2?.packet ?? "") ?? "null") : answer2?.data;
  }
  /**
   * Tries at once instead of waiting for the time that `reconnecting` told. With a session, asks the server for a sign of
   * life: a connection that has died unnoticed ends within seconds, and is replaced. In a page this happens by itself when
   * the page can be seen again or the network is back.
   */
  reconnectNow() {
    if (this.#state === "connected")
      this.#session?.probe();
    if (this.#state !== "reconnecting" || this.#retry === void 0)
      return;
    clearTimeout(this.#retry);
    this.#retry = void 0;
    void this.#attempt(true);
  }
  /**
   * Leaves (§9.f): says so (unless `silent`), waits for acknowledgements of what was published (`timeout`
   * milliseconds, 5,000 by default), and closes. What is unfinished then fails with ClosedError, and
   * iterators end. `conn` may be called again afterwards.
   */
  async disconnect(options = {}) {
    if (this.#state === "closing")
      return this.#closing;
    if (this.#state === "idle") {
      await this.#finish(new ClosedError("the client was disconnected"));
      return;
    }
    this.#closing = this.#leave(options);
    await this.#closing;
  }
  async #leave(options) {
    const session = this.#session;
    const wasConnected = this.#state === "connected";
    this.#state = "closing";
    clearTimeout(this.#retry);
    this.#retry = void 0;
    if (session?.alive && wasConnected) {
      this.#outbox.checkLast();
      if (!options.silent)
        session.leave();
      if (this.#outbox.inFlight > 0 && options.timeout !== 0) {
        this.#tellState();
        await this.#goodbye(session, options.timeout ?? LEAVE_MS);
      }
    }
    const error = new ClosedError("the client was disconnected");
    const closed = this.#finish(error, wasConnected);
    if (wasConnected)
      this.#events.emit("disconnect", { error, willReconnect: false, reason: void 0 });
    this.#tellState();
    await closed;
  }
  /** Called when the session that is leaving has ended, or nothing is outstanding any more. */
  #farewell;
  #goodbye(session, milliseconds) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#farewell = void 0;
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#farewell = () => {
        if (!session.alive || this.#outbox.inFlight === 0)
          done();
      };
    });
  }
  /** Everything ends with this error; the client can be used again. Done when the connection is closed. */
  #finish(error, politely = false) {
    const session = this.#stop();
    const closed = politely ? session?.close() : session?.destroy(error);
    this.#detach(error);
    this.#outbox.close(error);
    this.#subscriptions.close(error);
    this.#deliveries.endAll(error instanceof ClosedError ? void 0 : error);
    this.#rest(error);
    return Promise.resolve(closed);
  }
  /** No attempt follows. What waits fails; subscriptions are kept for when the application connects again. */
  #giveUp(error) {
    this.#stop()?.destroy(error);
    this.#detach(error);
    this.#outbox.close(error);
    this.#subscriptions.suspend(error);
    this.#deliveries.endAll(error);
    this.#rest(error);
    this.#events.emit("disconnect", { error, willReconnect: false, reason: reasonOf(error) });
    this.#tellState();
  }
  /** Idle from now on: what still waits for an attempt does no harm. Returns the session there was. */
  #stop() {
    this.#state = "idle";
    clearTimeout(this.#retry);
    this.#retry = void 0;
    const session = this.#session;
    this.#session = void 0;
    this.#epoch++;
    return session;
  }
  /** The client is at it. @throws UsageError if there is neither a token nor a way to get one. */
  #begin(credentials) {
    this.#tokens.use(credentials);
    this.#state = "connecting";
    this.#reason = void 0;
    this.#stopListening ??= onWake({
      awake: () => this.#awake(),
      offline: () => {
        if (this.#state === "connected")
          this.#session?.probe();
      }
    });
    this.#tellState();
  }
  /** The opposite: nothing happens by itself any more. */
  #rest(error) {
    this.#tokens.rest();
    this.#stopListening?.();
    this.#stopListening = void 0;
    this.#connected = void 0;
    for (const waiter of [...this.#waiters])
      waiter.reject(error);
    this.#waiters.clear();
  }
  #awake() {
    if (this.#state === "connected" || performance.now() >= this.#notBefore)
      this.reconnectNow();
  }
  #tellState() {
    const [state, previous] = [this.#state, this.#toldState];
    if (state === previous)
      return;
    this.#toldState = state;
    this.#events.emit("state", { state, previous, reason: this.#reason });
  }
  async #open(resumed, epoch) {
    const { session, opened } = await this.#openSession(epoch);
    await this.#subscriptions.attach(session);
    this.#stillWanted(epoch);
    if (!session.alive)
      throw session.error ?? new NetworkError("the connection ended while its subscriptions were made");
    this.#state = "connected";
    this.#reason = void 0;
    this.#connectedAt = performance.now();
    this.#tokens.refreshAhead((error) => this.#report(error));
    this.#outbox.attach(session);
    const event = { clientId: this.clientId ?? "", ...opened, resumed };
    this.#connected = event;
    for (const waiter of [...this.#waiters])
      waiter.resolve(event);
    this.#waiters.clear();
    this.#events.emit("connected", event);
    this.#tellState();
    return event;
  }
  /** `conn`, and once more with a new token if the server does not take this one. */
  async #openSession(epoch) {
    for (let refreshed = false; ; refreshed = true) {
      this.#stillWanted(epoch);
      const credentials = await this.#tokens.current();
      this.#stillWanted(epoch);
      const session = await this.#connection();
      this.#stillWanted(epoch);
      if (this.#lastClient !== void 0 && this.#lastClient !== credentials.clientId)
        this.#deliveries.forgetIds();
      this.#lastClient = credentials.clientId;
      try {
        return { session, opened: await session.conn(credentials, this.#window, this.#publisher) };
      } catch (error) {
        const expired = error instanceof RefusedError && error.status === Status.INVALID_TOKEN;
        if (!expired || refreshed || !this.#tokens.expire(credentials))
          throw error;
      }
    }
  }
  /** Who waits for a connection that was given up meanwhile must not open the next. */
  #stillWanted(epoch) {
    if (epoch !== this.#epoch)
      throw new ClosedError("the connection attempt was cancelled");
  }
  /** The connection there is, else a new one, once it can be spoken to. */
  async #connection() {
    if (!this.#session?.alive) {
      const session2 = new Session({
        url: this.#options.url,
        WebSocket: this.#options.WebSocket,
        worker: this.#options.worker,
        tls: this.#options.tls,
        maxIncomingBytes: this.#maxPacketBytes * 4
      }, {
        push: (push, packet) => this.#deliveries.push(push, packet),
        pubAck: (ack, packet) => {
          this.#outbox.answered(ack.id, ack.status, ack.data, packet);
          this.#farewell?.();
        },
        beatAnswered: (beat) => {
          this.#outbox.beatAnswered(beat);
          this.#farewell?.();
        },
        writable: () => this.#outbox.flush(),
        dropped: () => void this.counters.droppedPushes++,
        ended: (error) => this.#ended(session2, error)
      });
      this.#session = session2;
    }
    const session = this.#session;
    await session.opened;
    return session;
  }
  /** A connection is gone. What happens to one that was not ready yet is up to who opened it. */
  #ended(session, error) {
    if (session !== this.#session)
      return;
    this.#session = void 0;
    this.#detach(error);
    this.#farewell?.();
    if (this.#state !== "connected")
      return;
    this.#connected = void 0;
    this.#backoff?.sessionLasted(performance.now() - this.#connectedAt);
    const delay = this.#nextDelay(error);
    if (delay === void 0) {
      this.#giveUp(error);
      return;
    }
    this.#state = "reconnecting";
    this.#events.emit("disconnect", { error, willReconnect: true, reason: reasonOf(error) });
    if (this.#state === "reconnecting")
      this.#schedule(delay, error);
  }
  /** Milliseconds until the next attempt; `undefined` if there shall be none. */
  #nextDelay(error) {
    const reason = reasonOf(error);
    if (reason)
      this.#reason = reason;
    if (reason?.code === DisconnectCode.TOKEN_EXPIRED)
      this.#tokens.expire(void 0);
    if (isFinal(error))
      return void 0;
    const delay = this.#backoff?.next();
    return delay === void 0 ? void 0 : delay + (reason?.delay ?? 0);
  }
  #schedule(delay, error) {
    this.#state = "reconnecting";
    this.#notBefore = performance.now() + (reasonOf(error)?.delay ?? 0);
    this.#retry = setTimeout(() => {
      this.#retry = void 0;
      void this.#attempt(true);
    }, delay);
    this.#events.emit("reconnecting", { attempt: this.#backoff?.attempt ?? 0, delay, error });
    this.#tellState();
  }
  async #attempt(again) {
    const epoch = ++this.#epoch;
    const resumed = this.#connectedAt > 0 && again;
    try {
      await this.#limited("connecting", { timeout: this.#timeout || OPEN_MS }, () => this.#open(resumed, epoch));
    } catch (error) {
      if (epoch !== this.#epoch || this.#state !== "reconnecting" && this.#state !== "connecting")
        return;
      this.#epoch++;
      this.#detach(error);
      this.#drop(error);
      const failure = error instanceof JmqtError ? error : new NetworkError("connecting failed", { cause: error });
      const delay = this.#nextDelay(error);
      if (delay === void 0)
        this.#giveUp(failure);
      else
        this.#schedule(delay, failure);
    }
  }
  /** Nothing can be sent any more. */
  #detach(error) {
    this.#subscriptions.detach();
    this.#outbox.detach(error.message);
  }
  /** The connection is of no use any more. */
  #drop(error) {
    const session = this.#session;
    this.#session = void 0;
    session?.destroy(error instanceof JmqtError ? error : new NetworkError(error.message));
  }
  #subscription(kind, channel, persistent, subscriptions, options) {
    let cancel;
    return limited(`${kind} on ${isFilterKey(channel) ? "filter" : "channel"} ${JSON.stringify(nameOf(channel))}`, options, this.#timeout, (resolve, reject) => {
      cancel = this.#subscriptions.add({ kind, channel, persistent, subscriptions, resolve, reject });
    }, (error) => cancel?.(error));
  }
  #publish(kind, channel, data, qos, retain, options, timeout, checked = false) {
    let name;
    let json;
    try {
      name = channelName(channel);
      json = kind === "request" && data === void 0 ? void 0 : encodeData(data, `${kind} on ${JSON.stringify(name)}`);
      if (json !== void 0 && exceeds(json, this.#maxPacketBytes - 2048)) {
        throw new UsageError(`the data of ${kind} on ${JSON.stringify(name)} is too large: a packet may have ${this.#maxPacketBytes} bytes (maxPacketBytes)`);
      }
      if (kind === "pub" && name.startsWith("$")) {
        throw new UsageError(`${JSON.stringify(name)} is a control channel: use request`, Status.INVALID_CHANNEL);
      }
    } catch (error) {
      return Promise.reject(error);
    }
    const literal = data instanceof RawJson && data.literal;
    let cancel;
    return limited(`${kind} on channel ${JSON.stringify(name)}`, options, timeout, (resolve, reject) => {
      cancel = this.#outbox.add({ kind, channel: name, json, literal, qos, retain, checked, resolve, reject }).cancel;
    }, () => cancel?.());
  }
  /** Runs what opens or uses a connection; when a limit is reached first, the connection goes. */
  #limited(what, options, run) {
    return limited(what, options, this.#timeout, (resolve, reject) => void run().then(resolve, reject), (error) => {
      if (this.#state !== "connected")
        this.#drop(error);
    }, () => this.#session?.understood ? "" : `, and nothing else came from ${this.#options.url}: check that this is the port of a JMQT server for this kind of URL (jmqt:// 8010, jmqts:// 8011, ws:// 8012, wss:// 8013)`);
  }
  #report(error) {
    if (this.#events.has("error"))
      this.#events.emit("error", error);
    else
      console.error(error);
  }
};
function reasonOf(error) {
  return error instanceof ConnectionLostError ? error.reason : void 0;
}
function wholeNumber(name, value, least, most) {
  if (Number.isInteger(value) && value >= least && value <= most)
    return value;
  throw new UsageError(`the option ${name} must be a whole number from ${least} to ${most}, not ${String(value)}`);
}

// dist/index.js
init_errors();
export {
  AbortedError,
  Client,
  ClosedError,
  ConnectionLostError,
  DisconnectCode,
  JmqtError,
  NetworkError,
  QueueFullError,
  RawJson,
  RefusedError,
  Status,
  TimeoutError,
  UnauthorizedError,
  UnsupportedError,
  UsageError,
  WrongServerError,
  describeReason,
  describeStatus
};
