// jmqt-js: made by `npm run build` from src/; MIT license. Do not edit.
(() => {
  // dist/errors.js
  var Status = {
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
  var STATUS_NAMES = new Map(Object.entries(Status).map(([name, status]) => [status, name]));

  // dist/delivery.js
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

  // dist/compat.js
  var REMEMBERED = 4096;
  var lastPacketId = 0;
  var log = (text) => console.log(text);
  var JMQTClient = class {
    JMQT_VERSION = "1.0";
    /** `JMQT.statusCodes`, as pages know it. */
    statusCodes = Status;
    websockAddress;
    websocket = null;
    clientId = null;
    authToken = null;
    /** The server's `ts`, in milliseconds. */
    timeoutMiliSeconds = 0;
    /** Milliseconds from one heartbeat to the next. */
    hbGap = 0;
    /** When the last heartbeat was answered, and sent; 0 before the first. */
    lastHbAck = 0;
    lastHbSent = 0;
    /** The WebSocket is open. */
    opened = false;
    /** There is a session. */
    connected = false;
    #push;
    #disconnect;
    /** In the order of the calls. */
    #waiting = [];
    /** Packets for when the WebSocket is open. */
    #unsent = [];
    #stopBeating;
    /** QoS 1 pushes that came before there was a callback. */
    #unclaimed = [];
    #seen = new SeenIds(REMEMBERED);
    /** Handed over, and not acknowledged yet. */
    #held = /* @__PURE__ */ new Set();
    #session = null;
    #reason;
    constructor(host, port, enableSsl = false) {
      this.websockAddress = `${enableSsl ? "wss" : "ws"}://${host}:${port}/`;
    }
    on(event, callback) {
      if (event === "disconnect")
        this.#disconnect = callback;
      if (event !== "push")
        return;
      this.#push = callback;
      if (this.#unclaimed.length > 0)
        setTimeout(() => this.#claim(), 0);
    }
    /** `callback(1, token, clientId, '')`, `callback(status, '', '', message)`, or `callback(9)`. */
    auth(data, callback) {
      const answered = (fields) => {
        if (!fields)
          return void callback?.(Status.NETWORK_ERROR);
        log(`JMQT authAck, status ${String(fields["st"])}`);
        const good = fields["st"] === Status.OK;
        const text = (key, wanted) => wanted ? String(fields[key] ?? "") : "";
        callback?.(Number(fields["st"]), text("at", good), text("cl", good), text("mg", !good));
      };
      this.#open("auth", () => JSON.stringify({ auth: { dt: data } }), answered);
    }
    /** `callback(status)`. */
    conn(clientId, token, callback) {
      if (this.connected) {
        log("JMQT already connected..");
        callback?.(Status.OK);
        return;
      }
      this.clientId = clientId;
      this.authToken = token;
      const answered = (fields) => {
        if (fields)
          this.#opened(fields, clientId);
        callback?.(fields ? Number(fields["st"]) : Status.NETWORK_ERROR);
      };
      this.#open("conn", () => JSON.stringify({ conn: { at: token, cl: clientId } }), answered);
    }
    /** `callback(status, channel)`. Any true value makes it persistent. */
    sub(channel, persistent, callback) {
      const text = () => JSON.stringify({ sub: { cn: channel, pr: persistent ? 1 : 0 } });
      this.#ask("sub", channel, `JMQT sub "${channel}", persistent ${String(persistent)}..`, text, callback);
    }
    /** `callback(status, channel)`. */
    unsub(channel, callback) {
      this.#ask("unsub", channel, `JMQT unsub "${channel}"..`, () => JSON.stringify({ unsub: { cn: channel } }), callback);
    }
    /**
     * `callback(status, packetId, data)`, with QoS 1 and on control channels, whose reply is `data` (else null); with QoS 0
     * only if there is no session, and then without `data`. Returns the packet id.
     */
    pub(channel, data, retain, qos, callback) {
      const id = String(++lastPacketId);
      const control = String(channel).startsWith("$");
      const answered = control || qos > 0;
      const text = () => JSON.stringify({
        pub: {
          cn: channel,
          dt: data,
          ...control ? { id } : answered ? { q: qos, id } : {},
          ...retain ? { rt: 1 } : {}
        }
      });
      const refused = callback;
      try {
        this.#sessionNeeded();
        const packet = text();
        log(`JMQT pub "${channel}", packet id ${id}..`);
        this.websocket?.send(packet);
      } catch (error) {
        log(`Error in pub: ${String(error)}`);
        refused?.(Status.NETWORK_ERROR, id);
        return id;
      }
      if (answered) {
        this.#waiting.push({
          kind: "pub",
          name: id,
          answered: (fields) => {
            if (!fields)
              return void refused?.(Status.NETWORK_ERROR, id);
            log(`JMQT pubAck for "${id}", status ${String(fields["st"])}`);
            callback?.(Number(fields["st"]), id, fields["dt"] ?? null);
          }
        });
      }
      return id;
    }
    /** Acknowledges a QoS 1 push, which happens by itself when its callback has returned. */
    pushAck(packetId) {
      try {
        log(`JMQT pushAck packet id ${packetId}..`);
        this.websocket?.send(JSON.stringify({ pushAck: { id: packetId } }));
      } catch (error) {
        log(`Error in pushAck: ${String(error)}`);
      }
    }
    /** Begins to send heartbeats, which happens by itself in a session. */
    heartbeat() {
      this.#stopBeating?.();
      let due = this.#scheduled();
      if (due === void 0)
        return;
      const period = Math.max(250, Math.min(1e3, this.hbGap / 4));
      const tick = () => {
        if (due === void 0 || Date.now() < due)
          return;
        if (this.connected) {
          log("JMQT heartbeat..");
          this.lastHbSent = Date.now();
          this.websocket?.send('{"hb":{}}');
          due = this.#scheduled();
        } else {
          log("JMQT heartbeat skipped!");
          due = void 0;
        }
        if (due === void 0)
          this.#stopBeating?.();
      };
      const timer = setInterval(tick, period);
      this.#stopBeating = () => clearInterval(timer);
    }
    /** Closes the WebSocket; with `sendDisconn` the server is told that this is on purpose. The event follows. */
    disconnect(sendDisconn = false) {
      if (!this.websocket)
        return;
      if (sendDisconn && this.opened) {
        log("Sending disconn..");
        this.websocket.send('{"disconn":{}}');
      }
      log(`Closing web socket ${this.websockAddress}`);
      this.websocket.close();
    }
    /** The same as `disconnect(true)`. */
    close() {
      this.disconnect(true);
    }
    /** When the next heartbeat is due; `undefined` if the server does not answer them. */
    #scheduled() {
      const now = Date.now();
      if (this.lastHbSent === 0)
        this.lastHbAck = now;
      const silence = this.lastHbSent === 0 ? 0 : Math.abs(this.lastHbSent - this.lastHbAck);
      log(`JMQT heartbeat scheduled, diff ${silence}`);
      if (silence <= this.timeoutMiliSeconds)
        return now + this.hbGap;
      log("JMQT hb ack timeout!!");
      this.disconnect();
      return void 0;
    }
    /** Sends what needs no session: now, or when the WebSocket is open. */
    #open(kind, text, answered) {
      try {
        const packet = text();
        if (this.opened) {
          log(`JMQT ${kind}..`);
          this.websocket?.send(packet);
        } else {
          if (this.#unsent.length === 0)
            this.#openWebSocket();
          this.#unsent.push(packet);
        }
      } catch (error) {
        log(`Error in ${kind}: ${String(error)}`);
        answered(void 0);
        return;
      }
      this.#waiting.push({ kind, name: "", answered });
    }
    #ask(kind, channel, line, text, callback) {
      try {
        this.#sessionNeeded();
        const packet = text();
        log(line);
        this.websocket?.send(packet);
      } catch (error) {
        log(`Error in ${kind}: ${String(error)}`);
        callback?.(Status.NETWORK_ERROR, channel);
        return;
      }
      this.#waiting.push({
        kind,
        name: String(channel).trim(),
        answered: (fields) => {
          if (!fields)
            return void callback?.(Status.NETWORK_ERROR, channel);
          const name = typeof fields["cn"] === "string" ? fields["cn"] : channel;
          log(`JMQT ${kind}Ack for "${name}", status ${String(fields["st"])}`);
          callback?.(Number(fields["st"]), name);
        }
      });
    }
    #sessionNeeded() {
      if (!this.connected)
        throw new Error("JMQT client not connected");
    }
    #openWebSocket() {
      log(`Opening web socket ${this.websockAddress}`);
      const { WebSocket } = globalThis;
      const socket = new WebSocket(this.websockAddress);
      this.websocket = socket;
      this.#reason = void 0;
      socket.onopen = () => {
        log(`Web socket opened ${this.websockAddress}`);
        this.opened = true;
        for (const packet of this.#unsent.splice(0)) {
          log(packet.startsWith('{"auth"') ? "JMQT auth.." : "JMQT conn..");
          socket.send(packet);
        }
      };
      socket.onmessage = (event) => this.#received(event.data);
      socket.onerror = () => {
      };
      socket.onclose = (event) => this.#closed(event);
    }
    #closed({ code, reason }) {
      log(`Web socket closed ${this.websockAddress}`);
      this.connected = false;
      this.opened = false;
      this.#stopBeating?.();
      this.#unsent = [];
      this.#unclaimed = [];
      const told = this.#reason ?? disconnectReason(code, reason ?? "");
      const calls = this.#waiting.splice(0).map(({ answered }) => () => answered(void 0));
      const event = this.#disconnect;
      if (event)
        calls.push(told ? () => event(this.websockAddress, told) : () => event(this.websockAddress));
      for (const call of calls) {
        try {
          call();
        } catch (error) {
          report(error);
        }
      }
    }
    #received(text) {
      let packet;
      try {
        packet = JSON.parse(String(text));
      } catch {
        return log("JMQT packet that is not JSON");
      }
      const [type] = Object.keys(packet ?? {});
      const fields = type === void 0 ? void 0 : packet[type];
      if (type === void 0 || typeof fields !== "object" || fields === null)
        return;
      switch (type) {
        case "authAck":
        case "connAck":
          return this.#answer(type.slice(0, -3), void 0, fields);
        case "subAck":
        case "unsubAck":
          return this.#answer(type.slice(0, -3), fields["cn"], fields);
        case "pubAck":
          return this.#answer("pub", fields["id"], fields);
        case "hbAck":
          this.lastHbAck = Date.now();
          return log("JMQT hbAck");
        case "push":
          return this.#pushed(fields);
        case "disconn":
          this.#reason = disconnectReason(Number(fields["st"]), String(fields["mg"] ?? ""), Number(fields["ts"] ?? 0));
          log(`JMQT disconn, status ${String(fields["st"])}: ${String(fields["mg"] ?? "")}`);
      }
    }
    /** Answers come in the order of the calls; a name in the answer tells which. */
    #answer(kind, name, fields) {
      const named = name === void 0 || name === null ? void 0 : String(name);
      const index = this.#waiting.findIndex((call2) => call2.kind === kind && (named === void 0 || call2.name === named));
      const [call] = index < 0 ? [] : this.#waiting.splice(index, 1);
      if (call)
        return call.answered(fields);
      const what = kind === "pub" ? "packet" : "channel";
      log(`JMQT ${kind}Ack for unknown ${what} "${named}", status ${String(fields["st"])}`);
    }
    #opened(fields, clientId) {
      log(`JMQT connAck, status ${String(fields["st"])}`);
      if (fields["st"] !== Status.OK)
        return;
      const seconds = Number(fields["ts"]);
      this.timeoutMiliSeconds = seconds * 1e3;
      this.hbGap = Math.max(seconds - 2, seconds / 4) * 1e3;
      this.lastHbAck = 0;
      this.lastHbSent = 0;
      this.connected = true;
      if (this.#session !== clientId)
        this.#seen = new SeenIds(REMEMBERED);
      this.#session = clientId;
      this.#held.clear();
      this.heartbeat();
    }
    #pushed(fields) {
      const qos1 = Number(fields["q"] ?? 0) === 1 && !fields["rt"];
      if (!qos1) {
        this.#hand(fields);
        return;
      }
      const key = JSON.stringify([fields["cn"], fields["id"]]);
      if (this.#seen.has(key)) {
        if (!this.#held.has(key))
          this.pushAck(String(fields["id"]));
        return;
      }
      this.#seen.add(key);
      this.#held.add(key);
      if (this.#push)
        this.#take(fields, key);
      else
        this.#unclaimed.push(fields);
    }
    #claim() {
      for (const fields of this.#unclaimed.splice(0))
        this.#take(fields, JSON.stringify([fields["cn"], fields["id"]]));
    }
    /** Hands it over, and acknowledges it if that works. */
    #take(fields, key) {
      const socket = this.websocket;
      const taken = () => {
        this.#held.delete(key);
        if (this.websocket === socket && this.connected)
          this.pushAck(String(fields["id"]));
      };
      const failed = (error) => {
        this.#held.delete(key);
        this.#seen.delete(key);
        report(error);
      };
      try {
        const result = this.#hand(fields);
        if (typeof result?.then === "function") {
          result.then(taken, failed);
        } else {
          taken();
        }
      } catch (error) {
        failed(error);
      }
    }
    #hand(fields) {
      const { cn, cl, dt, q, rt } = fields;
      return this.#push?.(cn, cl, dt, q ?? 0, rt ?? 0);
    }
  };
  function report(error) {
    const { reportError } = globalThis;
    if (reportError)
      reportError(error);
    else
      console.error(error);
  }

  // entry.js
  globalThis.JMQTClient = JMQTClient;
  globalThis.JMQT ??= { statusCodes: Status };
})();
