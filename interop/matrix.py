"""Runs every scenario with every client, and prints a table."""

import argparse
import asyncio
import contextlib
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback

from base import Place, Unable
from mosquitto_tools import MosquittoTools
from mqttjs import Mqttjs
from python_clients import Aiomqtt, Amqtt, Gmqtt, Paho
from scenarios import SCENARIOS, Stage

ROOT = pathlib.Path(__file__).resolve().parent.parent
KINDS = (Paho, Aiomqtt, Gmqtt, Amqtt, Mqttjs, MosquittoTools)
# Scenarios at a time.
WIDTH = 12
# A scenario that takes longer has failed.
SECONDS = 60


def program(name):
    target = pathlib.Path(os.environ.get('CARGO_TARGET_DIR', ROOT / 'target'))
    for kind in ('debug', 'release'):
        if (found := target / kind / name).exists():
            return str(found)
    raise SystemExit(f'{name} is missing: cargo build --bin {name}')


class Server:
    """The server under test: a process on free ports, with a store of its own."""

    is_jmqt = True

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.ports = {}
        self.lines = []

    async def start(self):
        config = self.folder / 'server.conf'
        config.write_text(
            'BIND_ADDRESS = "127.0.0.1"\nSOCKET_PORT = 0\nWEBSOCKET_PORT = \'\'\nMQTT_PORT = 0\n'
            f'SQLITE_PATH = "{self.folder}/jmqt.db"\n'
        )
        self.process = await asyncio.create_subprocess_exec(
            program('sample_server'),
            '--config',
            str(config),
            '--web-port',
            '0',
            cwd=self.folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            while not {'tcp', 'mqtt'} <= self.ports.keys():
                line = (await self.process.stderr.readline()).decode()
                self.lines.append(line)
                if not line:
                    raise SystemExit('the server did not start:\n' + ''.join(self.lines))
                if listening := re.search(r'Listening on (\w+) \S+:(\d+)', line):
                    self.ports[listening[1]] = int(listening[2])
        self.reading = asyncio.create_task(self.read())
        return Place(self.ports['mqtt'])

    async def read(self):
        async for line in self.process.stderr:
            self.lines.append(line.decode(errors='replace'))

    async def jmqt(self, *words, scheme='jmqt', stderr=asyncio.subprocess.DEVNULL):
        """The Rust client: of JMQT, or of MQTT."""
        port = self.ports['tcp' if scheme == 'jmqt' else 'mqtt']
        return await asyncio.create_subprocess_exec(
            program('jmqt'),
            '--url',
            f'{scheme}://127.0.0.1:{port}',
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=self.folder,
        )

    def complaints(self):
        """What the server logged and should not have: nothing here is its fault or an attack."""
        return [line for line in self.lines if re.search(r'\b(WARN|ERROR)\b|panicked', line)]

    async def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise
        await self.reading
        if self.process.returncode != 0:
            raise SystemExit(f'the server ended with {self.process.returncode}:\n' + ''.join(self.lines[-20:]))


class Mosquitto:
    """Mosquitto, for comparison."""

    is_jmqt = False

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    async def start(self):
        os.chmod(self.folder, 0o755)
        passwords = self.folder / 'passwords'
        passwords.write_text('device:secret\n')
        made = await asyncio.create_subprocess_exec('mosquitto_passwd', '-U', str(passwords))
        await made.wait()
        os.chmod(passwords, 0o644)
        port = free_port()
        config = self.folder / 'mosquitto.conf'
        config.write_text(
            f'listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n'
            'max_inflight_messages 0\nmax_queued_messages 0\n'
        )
        path = os.environ['PATH'] + ':/usr/sbin'
        self.process = await asyncio.create_subprocess_exec(
            shutil.which('mosquitto', path=path), '-c', str(config), stderr=asyncio.subprocess.DEVNULL
        )
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection('127.0.0.1', port)
                writer.close()
                return Place(port)
            await asyncio.sleep(0.05)
        raise SystemExit('Mosquitto did not start')

    def complaints(self):
        return []

    async def stop(self):
        self.process.terminate()
        await self.process.wait()


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


async def run_one(stage, play, needs):
    """'ok', or why it could not be done, or the exception."""
    try:
        for what in needs:
            if why := stage.kind.cannot.get(what):
                raise Unable(why)
        async with asyncio.timeout(SECONDS):
            await play(stage)
        return 'ok'
    except Unable as unable:
        return f'{stage.kind.label} {unable}'
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            raise
        return error
    finally:
        await stage.end()


async def run(server_kind, wanted):
    began = time.monotonic()
    results = {}
    with tempfile.TemporaryDirectory(prefix='jmqt-interop-', ignore_cleanup_errors=True) as folder:
        server = server_kind(folder)
        place = await server.start()
        slots = asyncio.Semaphore(WIDTH)
        kinds = [kind for kind in KINDS if wanted.search(kind.label)]
        try:
            for kind in kinds:
                await kind.set_up()

            async def one(kind, version, name, play, needs):
                async with slots:
                    stage = Stage(kind, version, place, play.__name__.replace('_', '-'), server)
                    results[kind.label, version, name] = await run_one(stage, play, needs)

            await asyncio.gather(
                *(
                    one(kind, version, name, play, needs)
                    for name, play, only, needs, jmqt in SCENARIOS
                    for kind in kinds
                    for version in kind.versions
                    if version in only and (server.is_jmqt or not jmqt)
                )
            )
        finally:
            for kind in kinds:
                with contextlib.suppress(AttributeError):
                    await kind.tear_down()
            await server.stop()
        complaints = server.complaints()
    return report(results, kinds, complaints, time.monotonic() - began)


def report(results, kinds, complaints, seconds):
    """A table: a row for each scenario, a column for each client and version. Notes and failures below."""
    columns = [(kind.label, version) for kind in kinds for version in kind.versions]
    heads = [f'{label.split(",")[0]} {version}' for label, version in columns]
    notes, failures = {}, []
    width = max(len(name) for name, *_ in SCENARIOS)
    print(' ' * width, ' | '.join(heads))
    for name, *_ in SCENARIOS:
        cells = []
        for column, head in zip(columns, heads):
            result = results.get((*column, name), '')
            if isinstance(result, BaseException):
                failures.append((*column, name, result))
                result = 'FAILED'
            elif result not in ('', 'ok'):
                result = f'({notes.setdefault(result, len(notes) + 1)})'
            cells.append(f'{result:^{len(head)}}')
        print(f'{name:{width}}', ' | '.join(cells).rstrip())
    for note, number in notes.items():
        print(f'({number}) {note}')
    for label, version, name, error in failures:
        print(f'\n{label} {version}, {name}: {type(error).__name__}: {error}', file=sys.stderr)
        traceback.print_exception(error)
    for line in complaints:
        print(f'the server complained: {line}', end='', file=sys.stderr)
    passed = sum(result == 'ok' for result in results.values())
    print(f'{passed} of {len(results)} passed, {len(failures)} failed, {seconds:.0f} s')
    return not failures and not complaints and passed > 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--mosquitto', action='store_true', help='run against Mosquitto, for comparison')
    parser.add_argument('--only', default='', metavar='REGEX', help='the clients')
    arguments = parser.parse_args()
    server = Mosquitto if arguments.mosquitto else Server
    sys.exit(0 if asyncio.run(run(server, re.compile(arguments.only))) else 1)


main()
