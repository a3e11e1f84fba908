"""mosquitto_pub, mosquitto_sub and mosquitto_rr: a process for each publish and for each subscriber."""

import asyncio
import contextlib
import re

from base import DEADLINE, Answer, Client, Message, Properties

# Payload and properties as hexadecimal digits or words without spaces: a message is one line.
FORMAT = r'message %q %r %t %x|%C|%R|%D|%E|%F|%S|%P'
# How long mosquitto_sub may take to end after a signal.
SIGNAL_DEADLINE = 5
VERSIONS = {'3.1': 'mqttv31', '3.1.1': 'mqttv311', '5': 'mqttv5'}


class MosquittoTools(Client):
    label = 'mosquitto_pub, _sub'
    versions = ('3.1', '3.1.1', '5')
    shortest_keep_alive = 5
    keeps_connection = False
    cannot = {
        'present': 'do not tell session present',
        'options': 'have no option for it',
        'unsubscribe': 'unsubscribe only at the start',
        'takeover': 'reconnect after a takeover',
        'code': 'do not tell the code of a PUBACK',
        'alias': 'send one message in a connection',
        'server alias': 'do not show the alias of a message',
    }

    def __init__(self, place, version, login):
        super().__init__(place, version, login)
        self.process = None
        self.reading = None
        self.filters = []
        # mosquitto_sub sends DISCONNECT when it has subscribed. When it is told to stop it leaves the will, in MQTT 5.
        self.leaves_at_once = False

    def words(self, name):
        login, place = self.login, self.place
        words = ['-h', '127.0.0.1', '-p', str(place.port), '-V', VERSIONS[self.version], '-i', name, '-d']
        return [*words, '-u', login.user(place), '-P', place.password]

    async def connect(self):
        """A subscriber connects when it subscribes. Whether the server lets it in is found out by a publish."""
        if not self.login.is_known:
            process = await self.start('mosquitto_pub', '-t', 'nobody', '-m', 'x', '-q', '1', name=self.login.client_id)
            output, _ = await self.end_of(process)
            code = re.search(r'received CONNACK \((\d+)\)', output)
            return Answer(int(code[1]))
        # A clean session is begun by one connection, as a persistent subscriber does not begin one.
        return Answer(0)

    async def start(self, program, *words, name):
        # They write to a pipe only when they have a lot.
        return await asyncio.create_subprocess_exec(
            'stdbuf',
            '-oL',
            program,
            *self.words(name),
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 24,
        )

    async def end_of(self, process, given=b''):
        try:
            async with asyncio.timeout(DEADLINE):
                output, _ = await process.communicate(given)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return output.decode(errors='replace'), process.returncode

    async def subscribe(
        self, topic_filter, qos=0, no_local=False, keeps_retain=False, retain_handling=0, number=None
    ):
        if no_local or retain_handling:
            self.need('options')
        # Each subscription is of the same process: it is started again with all of them.
        await self.stop()
        self.filters.append((topic_filter, qos))
        login = self.login
        words = ['-F', FORMAT, '-k', str(login.keep_alive), '-q', str(max(qos for _, qos in self.filters))]
        for topic, _ in self.filters:
            words += ['-t', topic]
        if not login.clean:
            words.append('-c')
        if self.is_5:
            words += ['-x', str(login.expiry)]
            if login.receive_maximum is not None:
                words += ['-D', 'connect', 'receive-maximum', str(login.receive_maximum)]
            if number is not None:
                words += ['-D', 'subscribe', 'subscription-identifier', str(number)]
        if self.leaves_at_once:
            words.append('-E')
        if keeps_retain:
            words.append('--retain-as-published')
        if login.will is not None:
            will = login.will
            words += ['--will-topic', will.topic, '--will-payload', will.payload.decode(), '--will-qos', str(will.qos)]
            if will.retain:
                words.append('--will-retain')
        self.process = await self.start('mosquitto_sub', *words, name=login.client_id)
        code = self.loop.create_future()
        self.reading = asyncio.create_task(self.read(self.process, code))
        async with asyncio.timeout(DEADLINE):
            return await code

    async def read(self, process, code):
        async for line in process.stdout:
            line = line.decode(errors='replace').rstrip('\n')
            subscribed = re.match(r'Subscribed \(mid: \d+\): (\d+)', line)
            if subscribed and not code.done():
                code.set_result(int(subscribed[1]))
            if line.startswith('message '):
                self.messages.put_nowait(self.message_of(line))
        self.ended.set()

    def message_of(self, line):
        head, content_type, response, correlation, expiry, indicator, numbers, user = line.split('|')
        _, qos, retain, topic, payload = head.split(' ')
        properties = None
        if self.is_5:
            pairs = [pair.split(':', 1) for pair in user.split(' ') if ':' in pair]
            properties = Properties(
                user=[(name, value) for name, value in pairs],
                content_type=content_type or None,
                response_topic=response or None,
                correlation=correlation.encode() or None,
                expiry=int(expiry) if expiry else None,
                is_text=indicator == '1',
                subscriptions=sorted(int(number) for number in re.findall(r'\d+', numbers)),
            )
        return Message(topic, bytes.fromhex(payload), int(qos), retain == '1', properties)

    async def unsubscribe(self, topic_filter):
        self.need('unsubscribe')

    async def publish(self, topic, payload, qos=0, retain=False, properties=None):
        words = ['-t', topic, '-q', str(qos)]
        words += ['-s'] if payload else ['-n']
        if retain:
            words.append('-r')
        if properties is not None:
            if properties.alias is not None:
                self.need('alias')
            for name, value in (
                ('content-type', properties.content_type),
                ('response-topic', properties.response_topic),
                ('correlation-data', properties.correlation and properties.correlation.decode()),
                ('message-expiry-interval', properties.expiry),
                ('payload-format-indicator', 1 if properties.is_text else None),
            ):
                if value is not None:
                    words += ['-D', 'publish', name, str(value)]
            for name, value in properties.user:
                words += ['-D', 'publish', 'user-property', name, value]
        process = await self.start('mosquitto_pub', *words, name=f'{self.login.client_id}-pub')
        output, code = await self.end_of(process, payload)
        if code != 0:
            raise RuntimeError(f'mosquitto_pub: {code}: {output}')

    async def request(self, topic, payload, response_topic, prefix):
        """A request with mosquitto_rr; returns the answer, a line that begins like this."""
        words = ['-t', topic, '-e', response_topic, '-m', payload, '-F', '%p', '-W', str(DEADLINE)]
        process = await self.start('mosquitto_rr', *words, name=f'{self.login.client_id}-rr')
        output, code = await self.end_of(process)
        if code != 0:
            raise RuntimeError(f'mosquitto_rr: {code}: {output}')
        return next(line for line in output.splitlines() if line.startswith(prefix))

    async def stop(self, kill=False):
        if self.process is None:
            return
        process, self.process = self.process, None
        # mosquitto_sub waits for itself for ever when a signal comes while it sends: its handler takes the lock of what
        # is to be sent. So it gets no signal where it leaves by itself, and elsewhere it is killed if it hangs.
        if kill:
            send(process.kill)
        elif not self.leaves_at_once:
            send(process.terminate)
        if not await self.has_ended(process, DEADLINE if self.leaves_at_once else SIGNAL_DEADLINE):
            send(process.kill)
            ended = await self.has_ended(process, DEADLINE)
            if self.leaves_at_once or not ended:
                raise TimeoutError('mosquitto_sub did not end')

    async def has_ended(self, process, seconds):
        done, _ = await asyncio.wait([self.reading], timeout=seconds)
        if done:
            await self.reading
            await process.wait()
        return bool(done)

    async def disconnect(self):
        await self.stop()

    async def lose(self):
        await self.stop(kill=True)


def send(signal):
    """Sends a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        signal()
