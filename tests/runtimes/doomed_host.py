"""A host that is about to be killed: opens three episodes at a rung, leaves one in a loop, says `ready`, waits."""

import asyncio
import sys

from playground import FORGET, PERSISTENT, opened

from keepstate.runtimes import Sandbox


async def main() -> None:
    async with (
        Sandbox(isolation=sys.argv[1], allow_unsafe=True) as sandbox,
        opened(PERSISTENT, sandbox) as one,
        opened(PERSISTENT, sandbox) as two,
        opened(FORGET, sandbox) as three,
    ):
        for session in (one, two, three):
            assert await session.works()
        loop = asyncio.create_task(one.run("import signal\nwhile True: pass"))
        await asyncio.sleep(0.05)
        print("ready", flush=True)
        await loop
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main())
