"""Print an environment file with fresh secrets for compose.yaml. Needs `cryptography`, as the image has it:

docker run --rm --volume "$PWD/deploy:/deploy:ro" --entrypoint python verbatim:0.1.0 /deploy/compose_secrets.py

With the name of such a file it prints what that lacks, to be appended: a newer release may want more secrets.
"""

import secrets
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

BROKER_USERS = ("GATEWAY", "TRANSCRIBER", "MEETINGS", "INSIGHTS", "JANITOR", "BACKUP")


def main() -> None:
    """Print the secrets that are not there yet."""
    present = {line.partition("=")[0] for file in sys.argv[1:] for line in Path(file).read_text().splitlines()}
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    values = {
        "SERVICE_AUTH_KEY": secrets.token_hex(32),
        "WEBHOOK_SIGNING_KEY": secrets.token_hex(32),
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "POSTGRES_PASSWORD_MEETINGS": secrets.token_hex(24),
        "POSTGRES_PASSWORD_INSIGHTS": secrets.token_hex(24),
        # Begin with a letter: NATS would read digits as a number.
        **{f"NATS_PASSWORD_{user}": f"p{secrets.token_hex(24)}" for user in BROKER_USERS},
        "REDIS_PASSWORD": secrets.token_hex(24),
        "AUTH_PRIVATE_KEY": private.decode(),
        "AUTH_PUBLIC_KEY": public.decode(),
    }
    if "AUTH_PRIVATE_KEY" in present:
        del values["AUTH_PUBLIC_KEY"]  # of another pair
    for name in [name for name in values if name not in present]:
        # The settings read \n in a key as the end of a line.
        sys.stdout.write(f"{name}='{values[name].strip().replace(chr(10), chr(92) + 'n')}'\n")


if __name__ == "__main__":
    main()
