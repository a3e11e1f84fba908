"""What every client must be able to do with the server.

A scenario gets a [`Stage`], which makes its clients and names its topics. It fails with an exception, and raises
`Unable` if the client library cannot do it. Nothing sleeps to give something time: that no message came is shown by the
next one that does (`Stage.only`)."""

import asyncio
import contextlib
import json
import random

from base import DEADLINE, Login, Properties, Unable, Will

SCENARIOS = []


def scenario(name, only=None, needs=None, jmqt=False):
    """`only`: the versions; `needs`: the abilities of the client; `jmqt`: not for another MQTT server."""

    def enter(function):
        SCENARIOS.append((name, function, only or ('3.1', '3.1.1', '5'), needs or (), jmqt))
        return function

    return enter


def equal(got, wanted, what):
    assert got == wanted, f'{what}: got {got!r}, expected {wanted!r}'


class Stage:
    def __init__(self, kind, version, place, name, server):
        self.kind, self.version, self.place, self.server = kind, version, place, server
        self.root = f'{kind.label.split()[0].rstrip(",")}/{version}/{name}'.replace(' ', '-')
        self.is_5 = version == '5'
        self.made = []

    def name(self, who):
        # 3.1 allows 23 bytes.
        label = self.kind.label.split()[0].rstrip(',')[:6]
        return f'{label}{self.version}-{self.root.rsplit("/", 1)[1][:8]}-{who}'.replace('.', '')[:23]

    def topic(self, name):
        return f'{self.root}/{name}'

    def make(self, who, **login):
        client = self.kind(self.place, self.version, Login(self.name(who), **login))
        self.made.append(client)
        return client

    async def client(self, who, **login):
        client = self.make(who, **login)
        equal((await client.connect()).reason, 0, f'the reason of the CONNACK for {who}')
        return client

    async def only(self, client, by, topic):
        """Nothing has been sent to `client` but what was read: `topic`, which it must be subscribed to, brings this first."""
        await by.publish(topic, b'marker', qos=1)
        equal((await client.message()).payload, b'marker', 'the next message')

    async def end(self):
        for client in self.made:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5):
                    await client.lose()


def ordered(numbers, publisher):
    """What came with QoS 0. From several connections it has no order: a publisher does not know when it has been read."""
    return numbers if publisher.keeps_connection else sorted(numbers)


@scenario('QoS 0, 1, 2')
async def each_qos_in_both_directions(stage):
    publisher = await stage.client('pub')
    for granted in (0, 1, 2):
        topic = stage.topic(f'granted{granted}')
        subscriber = await stage.client(f'sub{granted}')
        equal(await subscriber.subscribe(topic, granted), granted, 'the code of the SUBACK')
        for qos in (0, 1, 2):
            payload = f'{qos} to {granted}'.encode()
            await publisher.publish(topic, payload, qos)
            got = await subscriber.message()
            equal((got.topic, got.payload, got.qos, got.retain), (topic, payload, min(qos, granted), False), 'the message')
        # Many of each, in order.
        for number in range(30):
            await publisher.publish(topic, str(number).encode(), granted)
        got = [int((await subscriber.message()).payload) for _ in range(30)]
        if granted == 0:
            got = ordered(got, publisher)
        equal(got, list(range(30)), 'the order')


@scenario('retained')
async def retained_messages(stage):
    topic = stage.topic('state')
    publisher = await stage.client('pub')
    await publisher.publish(topic, b'first', 1, retain=True)
    early = await stage.client('early')
    await early.subscribe(topic, 1)
    got = await early.message()
    equal((got.payload, got.retain), (b'first', True), 'the retained message')
    await publisher.publish(topic, b'second', 2, retain=True)
    got = await early.message()
    equal((got.payload, got.retain), (b'second', False), 'the message to a subscriber that was there')
    late = await stage.client('late')
    await late.subscribe(stage.topic('#'), 2)
    got = await late.message()
    equal((got.topic, got.payload, got.retain), (topic, b'second', True), 'the retained message by a filter')
    await publisher.publish(topic, b'', 1, retain=True)
    equal((await early.message()).payload, b'', 'the message that deletes')
    last = await stage.client('last')
    await last.subscribe(topic, 1)
    await stage.only(last, publisher, topic)


@scenario('will')
async def wills(stage):
    topic = stage.topic('gone')
    watcher = await stage.client('watcher')
    await watcher.subscribe(topic, 2)
    for qos in (0, 1, 2):
        will = Will(topic, f'lost {qos}'.encode(), qos)
        orderly = await stage.client(f'orderly{qos}', will=will)
        orderly.leaves_at_once = True
        await orderly.subscribe(stage.topic('own'))
        await orderly.disconnect()
        lost = await stage.client(f'lost{qos}', will=will)
        await lost.subscribe(stage.topic('own'))
        await lost.lose()
        got = await watcher.message()
        equal((got.payload, got.qos, got.retain), (f'lost {qos}'.encode(), qos, False), 'the will')
    await stage.only(watcher, watcher, topic)
    lost = await stage.client('kept', will=Will(stage.topic('last-words'), b'kept', 1, True))
    await lost.subscribe(stage.topic('own'))
    await watcher.subscribe(stage.topic('last-words'), 1)
    await lost.lose()
    equal((await watcher.message()).payload, b'kept', 'the will')
    late = await stage.client('late')
    await late.subscribe(stage.topic('last-words'), 1)
    got = await late.message()
    equal((got.payload, got.retain), (b'kept', True), 'the retained will')


@scenario('wildcards')
async def wildcards(stage):
    publisher = await stage.client('pub')
    for pattern, matching, other in (
        ('one/+/light', ('one/a/light', 'one//light'), ('one/light', 'one/a/b/light')),
        ('two/#', ('two', 'two/a', 'two/a/b'), ('twos', 'tw')),
        ('+/+', ('three/x', 'three/'), ('three/x/y',)),
    ):
        subscriber = await stage.client(pattern.replace('/', '')[:6].replace('+', 'p').replace('#', 'h'))
        await subscriber.subscribe(stage.topic(pattern), 1)
        for name in (*other, *matching):
            await publisher.publish(stage.topic(name), name.encode(), 1)
        for name in matching:
            got = await subscriber.message()
            equal((got.topic, got.payload), (stage.topic(name), name.encode()), f'the message for {pattern}')


@scenario('session')
async def a_session_is_resumed(stage):
    topic = stage.topic('orders')
    kept = {'clean': False, 'expiry': 1000}
    publisher = await stage.client('pub')
    device = stage.make('device', **kept)
    answer = await device.connect()
    equal(answer.reason, 0, 'the reason of the CONNACK')
    tells = 'present' not in stage.kind.cannot and stage.version != '3.1'
    if tells:
        equal(answer.is_present, False, 'session present')
    await device.subscribe(topic, 2)
    await device.disconnect()
    for round in range(2):
        for number in range(5):
            await publisher.publish(topic, f'{round} {number}'.encode(), 1 + number % 2)
        device = stage.make('device', **kept)
        answer = await device.connect()
        if tells:
            equal(answer.is_present, True, 'session present')
        if 'present' in stage.kind.cannot and hasattr(device, 'filters'):
            await device.subscribe(topic, 2)  # it connects when it subscribes
        # A client may see a QoS 2 message when the server has released it, after later messages. What it did not
        # acknowledge before it disconnected comes again.
        missing = {f'{round} {number}'.encode(): 1 + number % 2 for number in range(5)}
        while missing:
            got = await device.message()
            assert got.payload in missing or got.payload.startswith(f'{round - 1} '.encode()), f'got {got}'
            equal(got.qos, missing.pop(got.payload, got.qos), 'the QoS')
        await device.disconnect()
    device = stage.make('device')
    answer = await device.connect()
    if tells:
        equal(answer.is_present, False, 'session present of a clean session')
    await device.subscribe(stage.topic('other'), 1)
    await publisher.publish(topic, b'nobody waits for this', 1)
    await stage.only(device, publisher, stage.topic('other'))


@scenario('shared', only=('3.1.1', '5'))
async def shared_subscriptions(stage):
    publisher = await stage.client('pub')
    share, topic = f'$share/group/{stage.topic("a")}/#', stage.topic('a/b')
    members = [await stage.client(who) for who in ('one', 'two')]
    for member in members:
        equal(await member.subscribe(share, 1), 1, 'the code of the SUBACK')
    for qos in (0, 1):
        payloads = [f'{qos}{number}'.encode() for number in range(6)]
        for payload in payloads:
            await publisher.publish(topic, payload, qos)
        got = [(await member.message()).payload for member in members for _ in range(3)]
        equal(sorted(got), payloads, 'the messages of both members')
    # What a lost member has not acknowledged goes to the other one, perhaps its last message, too.
    await members.pop().lose()
    await publisher.publish(topic, b'left', 1)
    while (got := (await members[0].message()).payload) in payloads:
        pass
    equal(got, b'left', 'the message of the last member')


@scenario('properties', only=('5',))
async def properties_of_a_message(stage):
    topic = stage.topic('letter')
    subscriber, publisher = await stage.client('sub'), await stage.client('pub')
    await subscriber.subscribe(topic, 1)
    sent = Properties(
        user=[('colour', 'red'), ('colour', 'blue'), ('size', 'é')],
        content_type='text/plain',
        response_topic=stage.topic('answer'),
        correlation=b'number-42',
        expiry=1000,
        is_text=True,
    )
    await publisher.publish(topic, b'21.5', 1, retain=True, properties=sent)
    late = await stage.client('late')
    await late.subscribe(topic, 0)
    for reader in (subscriber, late):
        got = (await reader.message()).properties
        assert 990 <= got.expiry <= 1000, f'the expiry interval is {got.expiry}'
        got.expiry = 1000
        equal(sorted(got.user, key=lambda pair: pair[0]), sent.user, 'the user properties')
        got.user = sent.user
        equal(got, sent, 'the properties')


@scenario('no local', only=('5',))
async def no_local(stage):
    topic = stage.topic('echo')
    device, other = await stage.client('device'), await stage.client('other')
    await device.subscribe(topic, 1, no_local=True)
    await device.publish(topic, b'own', 1)
    await stage.only(device, other, topic)


@scenario('retain options', only=('5',))
async def retain_handling_and_retain_as_published(stage):
    topic = stage.topic('state')
    publisher = await stage.client('pub')
    await publisher.publish(topic, b'kept', 1, retain=True)
    keeps = await stage.client('keeps')
    await keeps.subscribe(topic, 1, keeps_retain=True)
    equal((await keeps.message()).retain, True, 'retain of the retained message')
    await publisher.publish(topic, b'kept', 1, retain=True)
    equal((await keeps.message()).retain, True, 'retain as published')
    never = await stage.client('never')
    await never.subscribe(topic, 1, retain_handling=2)
    await stage.only(never, publisher, topic)
    if_new = await stage.client('new')
    await if_new.subscribe(topic, 1, retain_handling=1)
    equal((await if_new.message()).payload, b'kept', 'the message for a new subscription')
    await if_new.subscribe(topic, 1, retain_handling=1)
    await stage.only(if_new, publisher, topic)
    await if_new.subscribe(topic, 1, retain_handling=0)
    equal((await if_new.message()).payload, b'kept', 'the message for the same subscription')


@scenario('subscription ids', only=('5',))
async def subscription_identifiers(stage):
    topic = stage.topic('a')
    device, publisher = await stage.client('device'), await stage.client('pub')
    if hasattr(device, 'filters'):
        await device.subscribe(topic, 1, number=7)
        await publisher.publish(topic, b'x', 1)
        equal((await device.message()).properties.subscriptions, [7], 'the subscription identifier')
        return
    await device.subscribe(topic, 1, number=7)
    await device.subscribe(stage.topic('#'), 1, number=300)
    await publisher.publish(topic, b'x', 1)
    got = await device.message()
    numbers = got.properties.subscriptions
    # The specification allows one message for each subscription, too.
    if len(numbers) == 1 and not stage.server.is_jmqt:
        numbers = sorted(numbers + (await device.message()).properties.subscriptions)
    equal(numbers, [7, 300], 'the subscription identifiers')


@scenario('topic alias', only=('5',), needs=('alias',))
async def topic_aliases_of_a_publisher(stage):
    topic = stage.topic('a rather long topic')
    subscriber, publisher = await stage.client('sub'), await stage.client('pub')
    await subscriber.subscribe(topic, 1)
    for name, payload in ((topic, b'1'), ('', b'2'), ('', b'3')):
        await publisher.publish(name, payload, 1, properties=Properties(alias=3))
        got = await subscriber.message()
        equal((got.topic, got.payload), (topic, payload), 'the message')


@scenario('server alias', only=('5',), needs=('server alias',), jmqt=True)
async def aliases_of_the_server(stage):
    names = [stage.topic(name) for name in ('one', 'two', 'three')]
    device, publisher = await stage.client('device', alias_maximum=2), await stage.client('pub')
    await publisher.publish(names[0], b'ready', 1, retain=True)
    await device.subscribe(stage.topic('#'), 1)
    equal((await device.message()).payload, b'ready', 'the retained message')
    # The Rust client has 32 aliases, and replaces them too.
    words = ['sub', stage.topic('#'), '--json', '-n', '10', '--name', f'rust of {stage.root}']
    rust = await stage.server.jmqt(*words, scheme='mqtt')
    try:
        async with asyncio.timeout(DEADLINE):
            lines = [await rust.stdout.readline()]  # it has subscribed
        aliases = {name: [] for name in names}
        for number in range(9):
            name, payload = names[number % 3], str(number).encode()
            await publisher.publish(name, payload, number % 2)
            got = await device.message()
            equal((got.topic, got.payload), (name, payload), 'the message')
            aliases[name].append(got.properties.alias)
        async with asyncio.timeout(DEADLINE):
            output, _ = await rust.communicate()
    finally:
        if rust.returncode is None:
            rust.kill()
            await rust.wait()
    # As many topics have one as the client allows, the first ones.
    equal(list(aliases.values()), [[1] * 3, [2] * 3, [None] * 3], 'the aliases')
    got = sorted((message['topic'], message['payload']) for message in map(json.loads, output.decode().splitlines()))
    equal(got, sorted((names[number % 3], str(number)) for number in range(9)), 'what the Rust client received')


@scenario('receive maximum 1', only=('5',))
async def a_client_that_takes_one_message_at_a_time(stage):
    topic = stage.topic('flood')
    device, publisher = await stage.client('device', receive_maximum=1), await stage.client('pub')
    await device.subscribe(topic, 2)
    for number in range(12):
        await publisher.publish(topic, str(number).encode(), number % 3)
    got = [await device.message() for _ in range(12)]
    # Only messages with a QoS above 0 keep their order among each other.
    for at_least_once in (False, True):
        numbers = [int(message.payload) for message in got if (message.qos > 0) == at_least_once]
        if not at_least_once:
            numbers = ordered(numbers, publisher)
        equal(numbers, [number for number in range(12) if (number % 3 > 0) == at_least_once], 'the messages')


@scenario('offline queue')
async def messages_that_a_client_has_queued_while_it_was_offline(stage):
    topic = stage.topic('queued')
    if not hasattr(stage.kind, 'publish_while_offline'):
        raise Unable('is not tried: paho-mqtt sends the most at once')
    reader = await stage.client('reader')
    await reader.subscribe(topic, 2)
    device = stage.make('device', clean=False, expiry=1000)
    await device.publish_while_offline(topic, 500)
    for number in range(500):
        equal((await reader.message()).payload, str(number).encode(), 'the next message')
    await stage.only(reader, reader, topic)
    # Nothing is left of it.
    await device.disconnect()


@scenario('200 KB')
async def a_large_message(stage):
    topic = stage.topic('film')
    payload = random.Random(1).randbytes(200 * 1024)
    device, publisher = await stage.client('device'), await stage.client('pub')
    await device.subscribe(topic, 2)
    for qos in (0, 1, 2):
        await publisher.publish(topic, payload, qos)
        got = await device.message()
        assert got.payload == payload and got.qos == qos, f'{len(got.payload)} bytes with QoS {got.qos}'


@scenario('unsubscribe', needs=('unsubscribe',))
async def unsubscribe(stage):
    device, publisher = await stage.client('device'), await stage.client('pub')
    await device.subscribe(stage.topic('other'), 1)
    for pattern in ('news', 'news/+'):
        await device.subscribe(stage.topic(pattern), 1)
        topic = stage.topic(pattern.replace('+', 'x'))
        await publisher.publish(topic, b'1', 1)
        equal((await device.message()).payload, b'1', 'the message')
        await device.unsubscribe(stage.topic(pattern))
        await publisher.publish(topic, b'2', 1)
        await stage.only(device, publisher, stage.topic('other'))


@scenario('keep alive')
async def a_silent_client_pings(stage):
    topic = stage.topic('rare')
    seconds = stage.kind.shortest_keep_alive
    device, publisher = await stage.client('device', keep_alive=seconds), await stage.client('pub')
    await device.subscribe(topic, 1)
    # Longer than the server waits for a client that does not ping.
    await asyncio.sleep(2.5 * seconds)
    assert not device.ended.is_set(), 'the connection has ended'
    await publisher.publish(topic, b'still here', 1)
    equal((await device.message()).payload, b'still here', 'the message')


@scenario('login refused')
async def a_login_that_is_refused(stage):
    stranger = stage.make('stranger', is_known=False)
    reason = (await stranger.connect()).reason
    allowed = (0x86, 0x87) if stage.is_5 else (4, 5, 0x86, 0x87)
    assert reason in allowed, f'the reason is {reason}'


@scenario('takeover', needs=('takeover',))
async def a_second_connection_takes_over(stage):
    first = await stage.client('same')
    second = await stage.client('same')
    async with asyncio.timeout(DEADLINE):
        await first.ended.wait()
    # Mosquitto 2.0 says it after the new connection has been accepted, or not at all.
    if stage.is_5 and first.end_reason is not None and stage.server.is_jmqt:
        equal(first.end_reason, 0x8E, 'the reason of the DISCONNECT')
    await second.subscribe(stage.topic('x'), 1)
    await stage.only(second, second, stage.topic('x'))


@scenario('refused publish', jmqt=True)
async def a_publish_that_the_application_refuses(stage):
    device = await stage.client('device')
    await device.subscribe('update', 1)
    with contextlib.suppress(RuntimeError):  # mosquitto_pub fails
        code = await device.publish('update', b'refused', 1)
        if stage.is_5 and code is not None and 'code' not in stage.kind.cannot:
            equal(code, 0x87, 'the code of the PUBACK')
    await device.subscribe(stage.topic('x'), 1)
    await device.publish(stage.topic('x'), b'allowed', 1)
    while True:
        got = await device.message()
        assert got.payload != b'refused', 'the refused message was delivered'
        if got.payload == b'allowed':
            return


@scenario('request', only=('5',), jmqt=True)
async def a_request_to_the_application(stage):
    device = await stage.client('device')
    reply = stage.topic('reply')
    if hasattr(device, 'request'):
        assert 'total' in json.loads(await device.request('$online', 'null', reply, '{')), 'the answer has no total'
        return
    await device.subscribe(reply, 0)
    asked = Properties(response_topic=reply, correlation=b'7')
    await device.publish('$online', b'null', 1, properties=asked)
    got = await device.message()
    equal((got.topic, got.properties.correlation, got.properties.user), (reply, b'7', [('st', '1')]), 'the answer')
    assert json.loads(got.payload)['total'] >= 1


# Payloads of MQTT, and the JSON that a JMQT client receives.
TO_JMQT = (
    (b'21.5', '21.5'),
    (b'warm', '"warm"'),
    (b'{"a": [1, null]}', '{"a": [1, null]}'),
    (b'', '""'),
    (b'\xff\x00', '{"$b64":"/wA="}'),
    ('é\n'.encode(), '"é\\n"'),
)
# JSON of a JMQT client, and the payloads of MQTT.
FROM_JMQT = (
    ('"ON"', b'ON'),
    ('21.5', b'21.5'),
    ('{"a":[1,null]}', b'{"a":[1,null]}'),
    ('{"$b64":"/wA="}', b'\xff\x00'),
    ('true', b'true'),
)


@scenario('JMQT', jmqt=True)
async def clients_of_jmqt_on_the_same_channels(stage):
    device = await stage.client('device')
    up, down = stage.topic('up'), stage.topic('down')
    await device.subscribe(down, 1)
    words = ['sub', up, '--json', '--verbose', '-n', str(len(TO_JMQT)), '--name', f'browser of {stage.root}']
    browser = await stage.server.jmqt(*words, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(DEADLINE):
            while b'Subscribed' not in (line := await browser.stderr.readline()):
                assert line, 'jmqt sub has ended'
            for payload, _ in TO_JMQT:
                await device.publish(up, payload, 1)
            output, _ = await browser.communicate()
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    got = [json.loads(line) for line in output.decode().splitlines()]
    for message, (payload, data) in zip(got, TO_JMQT, strict=True):
        equal((message['channel'], message['data']), (up, json.loads(data)), f'the data of {payload}')
    for data, payload in FROM_JMQT:
        publisher = await stage.server.jmqt('pub', down, data, '-q', '1')
        equal(await publisher.wait(), 0, 'the exit code of jmqt pub')
        got = await device.message()
        equal((got.topic, got.payload, got.qos), (down, payload, 1), f'the payload of {data}')
        if stage.is_5:
            expected = None if data.startswith('{"$b64') else 'text/plain' if data[0] == '"' else 'application/json'
            if expected is not None:
                equal(got.properties.content_type, expected, f'the content type of {data}')
