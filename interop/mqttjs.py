"""Clients of mqtt.js, which run in one Node process (mqttjs.mjs)."""

import asyncio
import base64
import itertools
import json
import pathlib

from base import DEADLINE, Answer, Client, Message, Properties

HERE = pathlib.Path(__file__).parent


def text(data):
    return None if data is None else base64.b64encode(data).decode()


class Mqttjs(Client):
    label = 'mqtt.js'
    versions = ('3.1', '3.1.1', '5')

    node = None
    numbers = itertools.count()
    waiting: dict = {}
    clients: dict = {}

    @classmethod
    async def set_up(cls):
        cls.node = await asyncio.create_subprocess_exec(
            'node',
            str(HERE / 'mqttjs.mjs'),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        cls.reading = asyncio.create_task(cls.read())

    @classmethod
    async def tear_down(cls):
        cls.node.stdin.close()
        try:
            async with asyncio.timeout(5):
                await cls.node.wait()
        except TimeoutError:
            cls.node.kill()
            await cls.node.wait()
        cls.reading.cancel()

    @classmethod
    async def read(cls):
        async for line in cls.node.stdout:
            said = json.loads(line)
            if 'command' in said:
                future = cls.waiting.pop(said['command'])
                if future.done():
                    continue
                if 'error' in said:
                    future.set_exception(RuntimeError(said['error']))
                else:
                    future.set_result(said['result'])
            else:
                cls.clients[said['client']].hear(said)
        for future in cls.waiting.values():
            future.set_exception(RuntimeError('the Node process has ended'))

    def __init__(self, place, version, login):
        super().__init__(place, version, login)
        self.number = next(self.numbers)
        self.clients[self.number] = self

    def hear(self, said):
        if 'ended' in said:
            self.end_reason = said['reason']
            self.ended.set()
            return
        message, got = said['message'], said['properties']
        properties = None
        if self.is_5:
            correlation = got.get('correlation')
            properties = Properties(
                user=[tuple(pair) for pair in got.get('user', [])],
                alias=got.get('alias'),
                content_type=got.get('contentType'),
                response_topic=got.get('responseTopic'),
                correlation=None if correlation is None else base64.b64decode(correlation),
                expiry=got.get('expiry'),
                is_text=got.get('isText', False),
                subscriptions=sorted(got.get('subscriptions', [])),
            )
        payload = base64.b64decode(message['payload'])
        self.messages.put_nowait(
            Message(message['topic'], payload, message['qos'], message['retain'], properties)
        )

    async def do(self, what, **asked):
        number = next(self.numbers)
        future = self.waiting[number] = self.loop.create_future()
        line = json.dumps({'command': number, 'what': what, 'client': self.number, **asked})
        self.node.stdin.write(line.encode() + b'\n')
        async with asyncio.timeout(DEADLINE):
            return await future

    async def connect(self):
        login = self.login
        will = login.will and {
            'topic': login.will.topic,
            'payload': text(login.will.payload),
            'qos': login.will.qos,
            'retain': login.will.retain,
        }
        answer = await self.do(
            'connect',
            port=self.place.port,
            version=self.version,
            user=login.user(self.place),
            password=self.place.password,
            login={
                'clientId': login.client_id,
                'clean': login.clean,
                'keepAlive': login.keep_alive,
                'expiry': login.expiry,
                'receiveMaximum': login.receive_maximum,
                'aliasMaximum': login.alias_maximum,
                'will': will,
            },
        )
        return Answer(answer['reason'], answer.get('present'))

    async def subscribe(
        self, topic_filter, qos=0, no_local=False, keeps_retain=False, retain_handling=0, number=None
    ):
        options = {'qos': qos}
        if self.is_5:
            options |= {'nl': no_local, 'rap': keeps_retain, 'rh': retain_handling}
        return (await self.do('subscribe', filter=topic_filter, options=options, number=number))['code']

    async def unsubscribe(self, topic_filter):
        await self.do('unsubscribe', filter=topic_filter)

    async def publish(self, topic, payload, qos=0, retain=False, properties=None):
        packed = properties and {
            'user': properties.user,
            'contentType': properties.content_type,
            'responseTopic': properties.response_topic,
            'correlation': text(properties.correlation),
            'expiry': properties.expiry,
            'isText': properties.is_text,
            'alias': properties.alias,
        }
        asked = {'topic': topic, 'payload': text(payload), 'qos': qos, 'retain': retain}
        return (await self.do('publish', **asked, properties=packed))['code']

    async def disconnect(self):
        await self.do('disconnect')

    async def lose(self):
        await self.do('lose')
        async with asyncio.timeout(DEADLINE):
            await self.ended.wait()
