"""A RipTrace client in another language, written from docs/protocol.md alone.

    client.py NATS_URL SERVICE LOCATION HITS

Lists the agents, asks each for its profile, sets a tracepoint on the service wherever it runs, prints so many hits, and
removes the tracepoint. Each line that it prints is a JSON object.
"""

import asyncio
import json
import sys
import time

import nats

PREFIX = "riptrace.v1"
TRACEPOINT = "t_python"
PATIENCE_SECONDS = 60


def token(host):
    """A host's name as one token of a subject."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
    return "".join(chr(byte) if byte in plain else f"_{byte:02X}" for byte in host.encode())


def say(kind, **fields):
    print(json.dumps({"kind": kind, **fields}), flush=True)


async def ask(connection, host, endpoint, **fields):
    """A request to an agent; its reply put together from its pages."""
    subject = f"{PREFIX}.{token(host)}.{endpoint}"

    async def once(body):
        message = await connection.request(subject, json.dumps(body).encode(), timeout=30)
        reply = json.loads(message.data)
        if reply.get("error"):
            raise RuntimeError(f"{subject}: {reply['error']['code']}: {reply['error']['text']}")
        return reply

    reply = await once({"v": 1, **fields})
    page = reply.get("page")
    if page is None:
        return reply["ok"]
    text = page["text"]
    for index in range(1, page["count"]):
        more = await once({"v": 1, "page": {"id": page["id"], "index": index}})
        text += more["page"]["text"]
    return json.loads(text)


async def agents(connection):
    """The hosts whose agents answer within a second."""
    heard = set()

    async def answer(message):
        heard.add(json.loads(message.data)["metadata"]["host"])

    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, cb=answer)
    await connection.publish("$SRV.INFO.riptrace-agent", reply=inbox)
    await asyncio.sleep(1)
    await subscription.unsubscribe()
    return sorted(heard)


async def main(url, service, location, wanted):
    connection = await nats.connect(url)
    hosts = await agents(connection)
    say("agents", hosts=hosts)

    running = []
    for host in hosts:
        profile = await ask(connection, host, "profile.get")
        processes = [process for process in profile["processes"] if process["service"] == service]
        say("profile", host=host, kernel=profile["host"]["kernel"], pids=[process["pid"] for process in processes])
        if processes:
            running.append(host)

    hits = asyncio.Queue()

    async def batch(message):
        body = json.loads(message.data)
        if body.get("v") != 1:
            return
        for event in body["events"]:
            if event["kind"] == "hit" and event["tracepoint"] == TRACEPOINT:
                await hits.put(event)

    await connection.subscribe(f"{PREFIX}.*.debugger.trace", cb=batch)
    for host in running:
        state = await ask(
            connection,
            host,
            "debugger.createTracepoint",
            id=TRACEPOINT,
            owner="python",
            target={"service": service},
            location=location,
            ttl_seconds=120,
        )
        end = time.monotonic() + PATIENCE_SECONDS
        while state["status"] == "indexing" and time.monotonic() < end:
            await asyncio.sleep(0.1)
            listed = await ask(connection, host, "debugger.listTracepoints", owner="python")
            state = listed["tracepoints"][0]
        say("tracepoint", host=host, status=state["status"], failures=state["failures"])

    for _ in range(wanted):
        hit = await asyncio.wait_for(hits.get(), PATIENCE_SECONDS)
        say("hit", host=hit["host"], seq=hit["seq"], function=hit["location"]["function"], variables=hit["variables"])
    for host in running:
        removed = await ask(connection, host, "debugger.removeTracepoint", id=TRACEPOINT)
        say("removed", host=host, tracepoints=[state["id"] for state in removed["tracepoints"]])
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
