"""What `tests/run` has to know of, and do on, a deployment of the user's.

- `given.py plan LIST [GAPS]`: reads the list of tests, asks the deployment what it can do, and prints a line for
  each test: `run`, package, target and test, or `skip`, target, test and reason, separated by tabs. A line `lacks`
  names a need that is not met, with the reason.
- `given.py names`: the names of its databases, and of its users with their databases.
- `given.py sweep PREFIX`: drops the databases and users whose (database's) names begin with the prefix, and prints
  their names.
- `given.py redact`: copies standard input, without the URI's password.

The URI is `MONGO_TESTKIT_URI`, so that it is in no list of processes. No output contains its password.
"""

import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import quote, unquote

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

COMPRESSORS = ["snappy", "zlib", "zstd"]
# How long to look for the deployment, in milliseconds.
LIMIT = 30_000

uri = os.environ.get("MONGO_TESTKIT_URI", "")


def redacted(text: str) -> str:
    """The text without the password, as it is in the URI, decoded, and as the kit writes it."""
    match = re.match(r"mongodb(?:\+srv)?://[^:@/]*:([^@/]+)@", uri)
    if match:
        plain = unquote(match[1])
        # The kit escapes all that may be escaped.
        for password in sorted({match[1], plain, quote(plain, safe="")}, key=len, reverse=True):
            text = text.replace(password, "***")
    return text


def entries(path: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Package, target, test and needs of each test of the list."""
    package = target = ""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            words = line.split("#")[0].split()
            if words and words[0].startswith("["):
                package, target = (word.strip("[]") for word in words)
            elif words:
                yield package, target, words[0], words[1:]


def gaps(path: str | None) -> dict[str, str]:
    """The known gaps of a server: a test, and the reason on indented lines below. Those with a slash are cases of the
    specifications, which `conformance` skips by itself."""
    found: dict[str, str] = {}
    test = ""
    if path is None:
        return found
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            if line[0].isspace():
                found[test] = f"{found[test]} {line.strip()}".strip()
            else:
                test = line.strip()
                found[test] = ""
    return {test: reason for test, reason in found.items() if "/" not in test}


def users_are_missing(client: MongoClient) -> str | None:
    database = client[f"tk{os.environ.get('MONGO_TESTKIT_RUN', '')}_probe"]
    roles = [{"role": "root", "db": "admin"}]
    try:
        database.command("createUser", "probe", pwd="a probe", roles=roles, mechanisms=["SCRAM-SHA-256"])
        found = database.command("usersInfo", "probe").get("users", [])
        database.command("dropUser", "probe")
    except OperationFailure as error:
        return f"createUser fails: {error.details.get('errmsg') if error.details else error}"
    finally:
        client.drop_database(database.name)
    return None if found else "the server accepts createUser, and has no user then"


def lacks(client: MongoClient) -> dict[str, str]:
    """The needs that the deployment does not meet, with the reason."""
    reply = client.admin.command({"hello": 1, "compression": COMPRESSORS})
    missing = {"own": "the kit has to start the server itself"}
    if "setName" not in reply and reply.get("msg") != "isdbgrid":
        missing["set"] = "a standalone has no retryable writes and no transactions"
    others = [name for name in COMPRESSORS if name not in reply.get("compression", [])]
    if others:
        missing["compressors"] = f"the server does not offer {', '.join(others)}"
    if reply["maxWireVersion"] < 13:
        missing["server-api"] = "the Stable API needs MongoDB 5.0"
    if client.options.pool_options._ssl_context is not None:
        missing["proxies"] = "the URI has TLS, which the kit's proxies do not use"
    if (reason := users_are_missing(client)) is not None:
        missing["users"] = reason
    return missing


def plan(path: str, known_gaps: str | None = None) -> None:
    missing: dict[str, str] = {}
    if uri:
        with MongoClient(uri, serverSelectionTimeoutMS=LIMIT) as client:
            missing = lacks(client)
    excuses = gaps(known_gaps)
    for need, reason in missing.items():
        print("lacks", need, reason, sep="\t")
    for package, target, test, needs in entries(path):
        reasons = [missing[need] for need in needs if need in missing]
        if test in excuses and not reasons:
            reasons = [f"a known gap: {excuses[test]}"]
        if reasons:
            print("skip", target, test, redacted("; ".join(reasons)), sep="\t")
        else:
            print("run", package, target, test, sep="\t")
    names = {test for _, _, test, _ in entries(path)}
    if unknown := sorted(set(excuses) - names):
        raise SystemExit(f"{known_gaps} names tests that are not in {path}: {', '.join(unknown)}")


def users(client: MongoClient) -> list[tuple[str, str]]:
    """Database and name of each user, as far as the URI's user may see them."""
    try:
        found = client.admin.command({"usersInfo": {"forAllDBs": True}})
    except OperationFailure:
        return []
    return [(user["db"], user["user"]) for user in found.get("users", [])]


def names() -> None:
    with MongoClient(uri, serverSelectionTimeoutMS=LIMIT) as client:
        for name in sorted(client.list_database_names()):
            print("database", name)
        for database, name in sorted(users(client)):
            print("user", f"{database}.{name}")


def sweep(prefix: str) -> None:
    assert prefix.startswith("tk"), prefix
    with MongoClient(uri, serverSelectionTimeoutMS=LIMIT) as client:
        for name in client.list_database_names():
            if name.startswith(prefix):
                client.drop_database(name)
                print("database", name)
        for database, name in users(client):
            if database.startswith(prefix):
                client[database].command("dropUser", name)
                print("user", f"{database}.{name}")


def redact() -> None:
    for line in sys.stdin:
        print(redacted(line), end="", flush=True)


def main() -> None:
    command, *arguments = sys.argv[1:]
    run = {"plan": plan, "names": names, "sweep": sweep, "redact": redact}[command]
    try:
        run(*arguments)
    except (PyMongoError, OSError, ValueError) as error:
        raise SystemExit(redacted(f"MONGO_TESTKIT_URI: {error}")) from None


main()
