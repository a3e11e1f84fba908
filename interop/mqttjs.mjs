// Clients of mqtt.js for the scenarios: commands come as lines of JSON, results and events go as lines of JSON.
import { createInterface } from 'node:readline';
import mqtt from 'mqtt';

const clients = new Map();
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const bytes = (text) => Buffer.from(text, 'base64');

function properties(asked) {
  if (!asked) return undefined;
  const user = {};
  for (const [name, value] of asked.user) (user[name] ??= []).push(value);
  return {
    ...(asked.user.length && { userProperties: user }),
    ...(asked.contentType != null && { contentType: asked.contentType }),
    ...(asked.responseTopic != null && { responseTopic: asked.responseTopic }),
    ...(asked.correlation != null && { correlationData: bytes(asked.correlation) }),
    ...(asked.expiry != null && { messageExpiryInterval: asked.expiry }),
    ...(asked.isText && { payloadFormatIndicator: true }),
    ...(asked.alias != null && { topicAlias: asked.alias }),
  };
}

function received(got) {
  if (!got) return {};
  const user = Object.entries(got.userProperties ?? {});
  return {
    user: user.flatMap(([name, values]) => [values].flat().map((value) => [name, value])),
    alias: got.topicAlias,
    contentType: got.contentType,
    responseTopic: got.responseTopic,
    correlation: got.correlationData?.toString('base64'),
    expiry: got.messageExpiryInterval,
    isText: got.payloadFormatIndicator === true,
    subscriptions: [got.subscriptionIdentifier ?? []].flat(),
  };
}

function connect(client, { port, version, login, user, password }) {
  const is5 = version === '5';
  const levels = { 3.1: 3, '3.1.1': 4, 5: 5 };
  const options = {
    host: '127.0.0.1',
    port,
    protocol: 'mqtt',
    clientId: login.clientId,
    clean: login.clean,
    keepalive: login.keepAlive,
    reschedulePings: true,
    reconnectPeriod: 0,
    resubscribe: false,
    protocolVersion: levels[version],
    ...(version === '3.1' && { protocolId: 'MQIsdp' }),
    username: user,
    password,
    ...(login.will && { will: { ...login.will, payload: bytes(login.will.payload) } }),
    ...(is5 && {
      properties: {
        sessionExpiryInterval: login.expiry,
        ...(login.receiveMaximum != null && { receiveMaximum: login.receiveMaximum }),
        ...(login.aliasMaximum != null && { topicAliasMaximum: login.aliasMaximum }),
      },
    }),
  };
  const connection = mqtt.connect(options);
  clients.set(client, connection);
  connection.on('message', (topic, payload, packet) =>
    say({
      client,
      message: { topic, payload: payload.toString('base64'), qos: packet.qos, retain: packet.retain },
      properties: received(packet.properties),
    }),
  );
  let reason = null;
  connection.on('disconnect', (packet) => (reason = packet.reasonCode ?? null));
  connection.on('close', () => say({ client, ended: true, reason }));
  return new Promise((resolve, reject) => {
    connection.on('connect', (packet) => resolve({ reason: 0, present: packet.sessionPresent }));
    connection.on('error', (error) => (typeof error.code === 'number' ? resolve({ reason: error.code }) : reject(error)));
  });
}

const does = {
  connect,
  async subscribe(client, { filter, options, number }) {
    const more = number == null ? options : { ...options, properties: { subscriptionIdentifier: number } };
    try {
      const [granted] = await clients.get(client).subscribeAsync(filter, more);
      return { code: granted.qos };
    } catch (error) {
      if (!error.packet?.granted) throw error;
      return { code: error.packet.granted[0] };
    }
  },
  async unsubscribe(client, { filter }) {
    await clients.get(client).unsubscribeAsync(filter);
    return {};
  },
  async publish(client, { topic, payload, qos, retain, properties: asked }) {
    try {
      const options = { qos, retain, ...(asked && { properties: properties(asked) }) };
      await clients.get(client).publishAsync(topic, bytes(payload), options);
      return { code: 0 };
    } catch (error) {
      if (typeof error.code !== 'number') throw error;
      return { code: error.code };
    }
  },
  async disconnect(client) {
    await clients.get(client).endAsync();
    return {};
  },
  async lose(client) {
    clients.get(client).stream.destroy();
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, what, client, ...asked } = JSON.parse(line);
  does[what](client, asked)
    .then((result) => say({ command, result }))
    .catch((error) => say({ command, error: String(error?.stack ?? error) }));
}
process.exit(0);
