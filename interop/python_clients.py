"""The clients in Python: paho-mqtt, aiomqtt, gmqtt and amqtt."""

import asyncio
import logging
import socket

import aiomqtt
import amqtt.client
import amqtt.errors
import gmqtt
import gmqtt.mqtt.handler
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from base import DEADLINE, Answer, Client, Message, Properties, gather

LEAVES_ALIASES = 'leaves it to the application to know the topic of an alias'
PAHO_VERSIONS = {'3.1': paho.MQTTv31, '3.1.1': paho.MQTTv311, '5': paho.MQTTv5}

# They write about each lost connection, which the scenarios want.
for name in ('gmqtt', 'amqtt', 'amqtt.client', 'transitions', 'mqtt'):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def to_paho(properties):
    packed = PahoProperties(PacketTypes.PUBLISH)
    if properties.user:
        packed.UserProperty = properties.user
    for name, value in (
        ('ContentType', properties.content_type),
        ('ResponseTopic', properties.response_topic),
        ('CorrelationData', properties.correlation),
        ('MessageExpiryInterval', properties.expiry),
        ('PayloadFormatIndicator', 1 if properties.is_text else None),
        ('TopicAlias', properties.alias),
    ):
        if value is not None:
            setattr(packed, name, value)
    return packed


def from_paho(packed):
    def get(name, default=None):
        return getattr(packed, name, default)

    return Properties(
        user=gather(get('UserProperty', [])),
        alias=get('TopicAlias'),
        content_type=get('ContentType'),
        response_topic=get('ResponseTopic'),
        correlation=get('CorrelationData'),
        expiry=get('MessageExpiryInterval'),
        is_text=get('PayloadFormatIndicator') == 1,
        subscriptions=sorted(get('SubscriptionIdentifier', [])),
    )


def connect_properties(login):
    packed = PahoProperties(PacketTypes.CONNECT)
    packed.SessionExpiryInterval = login.expiry
    if login.receive_maximum is not None:
        packed.ReceiveMaximum = login.receive_maximum
    if login.alias_maximum is not None:
        packed.TopicAliasMaximum = login.alias_maximum
    return packed


def subscription(qos, no_local, keeps_retain, retain_handling, number):
    options = SubscribeOptions(qos, no_local, keeps_retain, retain_handling)
    packed = None
    if number is not None:
        packed = PahoProperties(PacketTypes.SUBSCRIBE)
        packed.SubscriptionIdentifier = number
    return {'options': options, 'properties': packed}


class Paho(Client):
    label = 'paho-mqtt'
    versions = ('3.1', '3.1.1', '5')
    cannot = {'server alias': LEAVES_ALIASES}

    def __init__(self, place, version, login):
        super().__init__(place, version, login)
        self.waiting = {}
        keywords = {} if self.is_5 else {'clean_session': login.clean}
        self.paho = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=login.client_id,
            protocol=PAHO_VERSIONS[version],
            reconnect_on_failure=False,
            **keywords,
        )
        client.on_connect = lambda _, __, flags, reason, ___: self.done(
            'connect', Answer(reason.value, flags.session_present)
        )
        client.on_disconnect = lambda _, __, ___, reason, ____: self.loop.call_soon_threadsafe(self.end, reason)
        client.on_subscribe = lambda _, __, number, reasons, ___: self.done(number, reasons[0].value)
        client.on_unsubscribe = lambda _, __, number, *___: self.done(number, None)
        client.on_publish = lambda _, __, number, reason, ___: self.done(number, reason.value)
        client.on_message = lambda _, __, message: self.loop.call_soon_threadsafe(self.receive, message)
        client.username_pw_set(login.user(place), place.password)
        if login.will is not None:
            will = login.will
            client.will_set(will.topic, will.payload, will.qos, will.retain)

    def end(self, reason):
        self.end_reason = getattr(reason, 'value', None)
        self.ended.set()

    def receive(self, message):
        properties = from_paho(message.properties) if self.is_5 else None
        self.messages.put_nowait(
            Message(message.topic, bytes(message.payload), message.qos, message.retain, properties)
        )

    def done(self, what, value):
        def tell():
            future = self.future(what)
            if not future.done():
                future.set_result(value)

        self.loop.call_soon_threadsafe(tell)

    def future(self, what):
        return self.waiting.setdefault(what, self.loop.create_future())

    async def answer(self, what):
        async with asyncio.timeout(DEADLINE):
            value = await self.future(what)
        del self.waiting[what]
        return value

    async def connect(self):
        keywords = {}
        if self.is_5:
            keywords = {'clean_start': self.login.clean, 'properties': connect_properties(self.login)}
        self.paho.connect_async('127.0.0.1', self.place.port, self.login.keep_alive, **keywords)
        self.paho.loop_start()
        return await self.answer('connect')

    async def subscribe(self, topic_filter, qos=0, *options, **named):
        if not self.is_5:
            return await self.answer(self.paho.subscribe(topic_filter, qos)[1])
        return await self.answer(self.paho.subscribe(topic_filter, **self.options(qos, *options, **named))[1])

    @staticmethod
    def options(qos, no_local=False, keeps_retain=False, retain_handling=0, number=None):
        return subscription(qos, no_local, keeps_retain, retain_handling, number)

    async def unsubscribe(self, topic_filter):
        await self.answer(self.paho.unsubscribe(topic_filter)[1])

    async def publish(self, topic, payload, qos=0, retain=False, properties=None):
        packed = to_paho(properties) if properties else None
        published = self.paho.publish(topic, payload, qos, retain, packed)
        return await self.answer(published.mid)

    async def publish_while_offline(self, topic, count):
        """Publishes with QoS 2 before it is connected, and then connects as often as it must. paho-mqtt sends all of them
        after CONNACK, and more than the receive maximum of the server."""
        published = [self.future(self.paho.publish(topic, str(number), 2).mid) for number in range(count)]
        everything = asyncio.gather(*published)
        while not everything.done():
            reason = (await self.connect()).reason
            assert reason == 0, f'the reason of the CONNACK is {reason}'
            ended = asyncio.ensure_future(self.ended.wait())
            await asyncio.wait((everything, ended), return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if self.ended.is_set():
                self.paho.loop_stop()
                self.ended.clear()

    async def disconnect(self):
        self.paho.disconnect()
        async with asyncio.timeout(DEADLINE):
            await self.ended.wait()
        self.paho.loop_stop()

    async def lose(self):
        connection = self.paho.socket()
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)
            async with asyncio.timeout(DEADLINE):
                await self.ended.wait()
        self.paho.loop_stop()


class Aiomqtt(Client):
    label = 'aiomqtt'
    cannot = {
        'present': 'does not tell session present',
        'code': 'does not tell the code of a PUBACK',
        'server alias': LEAVES_ALIASES,
    }

    async def connect(self):
        login, place = self.login, self.place
        keywords = {'clean_session': login.clean}
        if self.is_5:
            keywords = {'clean_start': login.clean, 'properties': connect_properties(login)}
        keywords |= {'username': login.user(place), 'password': place.password}
        if login.will is not None:
            will = login.will
            keywords['will'] = aiomqtt.Will(will.topic, will.payload, will.qos, will.retain)
        self.client = aiomqtt.Client(
            '127.0.0.1',
            place.port,
            identifier=login.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if self.is_5 else aiomqtt.ProtocolVersion.V311,
            keepalive=login.keep_alive,
            timeout=DEADLINE,
            **keywords,
        )
        try:
            await self.client.__aenter__()
        except aiomqtt.MqttCodeError as error:
            return Answer(getattr(error.rc, 'value', error.rc))
        self.reading = asyncio.create_task(self.read())
        return Answer(0)

    async def read(self):
        try:
            async for message in self.client.messages:
                properties = from_paho(message.properties) if self.is_5 else None
                self.messages.put_nowait(
                    Message(message.topic.value, message.payload, message.qos, bool(message.retain), properties)
                )
        except aiomqtt.MqttError as error:
            self.end_reason = getattr(getattr(error.__cause__, 'rc', None), 'value', None)
            self.ended.set()

    async def subscribe(self, topic_filter, qos=0, *options, **named):
        if self.is_5:
            codes = await self.client.subscribe(topic_filter, **Paho.options(qos, *options, **named))
        else:
            codes = await self.client.subscribe(topic_filter, qos)
        return getattr(codes[0], 'value', codes[0])

    async def unsubscribe(self, topic_filter):
        await self.client.unsubscribe(topic_filter)

    async def publish(self, topic, payload, qos=0, retain=False, properties=None):
        packed = to_paho(properties) if properties else None
        await self.client.publish(topic, payload, qos, retain, packed)

    async def disconnect(self):
        self.reading.cancel()
        await self.client.__aexit__(None, None, None)

    async def lose(self):
        connection = self.client._client.socket()
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)
            async with asyncio.timeout(DEADLINE):
                await self.ended.wait()
        self.reading.cancel()


class Gmqtt(Client):
    label = 'gmqtt'
    cannot = {'code': 'does not tell the code of a PUBACK'}

    def __init__(self, place, version, login):
        super().__init__(place, version, login)
        self.waiting = {}
        self.present = None
        keywords = {}
        if self.is_5:
            keywords['session_expiry_interval'] = login.expiry
            if login.receive_maximum is not None:
                keywords['receive_maximum'] = login.receive_maximum
            if login.alias_maximum is not None:
                keywords['topic_alias_maximum'] = login.alias_maximum
        will = login.will and gmqtt.Message(
            login.will.topic, login.will.payload, login.will.qos, login.will.retain
        )
        self.client = gmqtt.Client(login.client_id, clean_session=login.clean, will_message=will, **keywords)
        self.client.set_config({'reconnect_retries': -2, 'reconnect_delay': 0})
        self.client.set_auth_credentials(login.user(place), place.password)
        self.client.on_connect = self.on_connect
        self.client.on_message = self.on_message
        self.client.on_disconnect = self.on_disconnect
        self.client.on_subscribe = lambda _, number, codes, __: self.future(number).set_result(codes[0])
        self.client.on_unsubscribe = lambda _, number, *__: self.future(number).set_result(None)

    def future(self, number):
        return self.waiting.setdefault(number, self.loop.create_future())

    async def answer(self, number):
        async with asyncio.timeout(DEADLINE):
            return await self.future(number)

    def on_connect(self, _, flags, __, ___):
        self.present = flags == 1

    def on_disconnect(self, _, packet, __=None):
        if isinstance(packet, (bytes, bytearray)) and packet and self.is_5:
            self.end_reason = packet[0]
        self.ended.set()

    def on_message(self, _, topic, payload, qos, got):
        properties = None
        if self.is_5:

            def first(name):
                return (got.get(name) or [None])[0]

            properties = Properties(
                user=gather(got.get('user_property', [])),
                alias=first('topic_alias'),
                content_type=first('content_type'),
                response_topic=first('response_topic'),
                correlation=first('correlation_data'),
                expiry=first('message_expiry_interval'),
                is_text=first('payload_format_id') == 1,
                subscriptions=sorted(got.get('subscription_identifier', [])),
            )
        self.messages.put_nowait(Message(topic, bytes(payload), qos, got['retain'] == 1, properties))
        return 0

    async def connect(self):
        try:
            async with asyncio.timeout(DEADLINE):
                await self.client.connect(
                    '127.0.0.1',
                    self.place.port,
                    keepalive=self.login.keep_alive,
                    version=gmqtt.constants.MQTTv50 if self.is_5 else gmqtt.constants.MQTTv311,
                )
        except gmqtt.mqtt.handler.MQTTConnectError as error:
            return Answer(error._code)
        return Answer(0, self.present)

    async def subscribe(
        self, topic_filter, qos=0, no_local=False, keeps_retain=False, retain_handling=0, number=None
    ):
        keywords = {}
        if number is not None:
            keywords['subscription_identifier'] = number
        return await self.answer(
            self.client.subscribe(topic_filter, qos, no_local, keeps_retain, retain_handling, **keywords)
        )

    async def unsubscribe(self, topic_filter):
        await self.answer(self.client.unsubscribe(topic_filter))

    async def publish(self, topic, payload, qos=0, retain=False, properties=None):
        keywords = {}
        if properties is not None:
            named = {
                'user_property': properties.user or None,
                'content_type': properties.content_type,
                'response_topic': properties.response_topic,
                'correlation_data': properties.correlation,
                'message_expiry_interval': properties.expiry,
                'payload_format_id': 1 if properties.is_text else None,
                'topic_alias': properties.alias,
            }
            keywords = {name: value for name, value in named.items() if value is not None}
        self.client.publish(topic, payload, qos, retain, **keywords)
        async with asyncio.timeout(DEADLINE):
            await self.client._persistent_storage.wait_empty()

    async def disconnect(self):
        await self.client.disconnect()

    async def lose(self):
        self.client._is_active = False
        self.client._connection._transport.abort()
        async with asyncio.timeout(DEADLINE):
            await self.ended.wait()


class Amqtt(Client):
    label = 'amqtt'
    versions = ('3.1.1',)
    cannot = {'present': 'does not tell session present'}

    async def connect(self):
        login, place = self.login, self.place
        # It pings `ping_delay` before the end, and tells the server the difference.
        settings = {'keep_alive': login.keep_alive + 1, 'ping_delay': 1, 'auto_reconnect': False}
        if login.will is not None:
            will = login.will
            settings['will'] = {
                'topic': will.topic,
                'message': will.payload.decode(),
                'qos': will.qos,
                'retain': will.retain,
            }
        self.client = amqtt.client.MQTTClient(login.client_id, settings)
        user = f'{login.user(place)}:{place.password}@'
        try:
            await self.client.connect(f'mqtt://{user}127.0.0.1:{place.port}', cleansession=login.clean)
        except amqtt.errors.ConnectError as error:
            return Answer(error.return_code)
        self.reading = asyncio.create_task(self.read())
        return Answer(0)

    async def read(self):
        delivering = None
        ending = asyncio.create_task(self.client._handler.wait_disconnect())
        try:
            while True:
                delivering = asyncio.create_task(self.client._handler.mqtt_deliver_next_message())
                await asyncio.wait((delivering, ending), return_when=asyncio.FIRST_COMPLETED)
                if not delivering.done():
                    return
                got = delivering.result()
                if got is None:
                    return
                self.messages.put_nowait(Message(got.topic, bytes(got.data), got.qos, bool(got.retain)))
        finally:
            if delivering is not None:
                delivering.cancel()
            self.ended.set()

    async def subscribe(self, topic_filter, qos=0):
        async with asyncio.timeout(DEADLINE):
            return (await self.client.subscribe([(topic_filter, qos)]))[0]

    async def unsubscribe(self, topic_filter):
        async with asyncio.timeout(DEADLINE):
            await self.client.unsubscribe([topic_filter])

    async def publish(self, topic, payload, qos=0, retain=False, properties=None):
        async with asyncio.timeout(DEADLINE):
            await self.client.publish(topic, payload, qos, retain)

    async def disconnect(self):
        self.reading.cancel()
        async with asyncio.timeout(DEADLINE):
            await self.client.disconnect()

    async def lose(self):
        self.client._handler.writer._writer.transport.abort()
        async with asyncio.timeout(DEADLINE):
            await self.ended.wait()
        self.reading.cancel()
