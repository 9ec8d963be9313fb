"""Print an environment file with fresh secrets for compose.yaml. Needs `cryptography`, as the image has it:

docker run --rm --volume "$PWD/deploy:/deploy:ro" --entrypoint python verbatim:0.1.0 /deploy/compose_secrets.py
"""

import secrets
import sys

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def main() -> None:
    """Print the secrets."""
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
        "AUTH_PRIVATE_KEY": private.decode(),
        "AUTH_PUBLIC_KEY": public.decode(),
    }
    for name, value in values.items():
        # The settings read \n in a key as the end of a line.
        sys.stdout.write(f"{name}='{value.strip().replace(chr(10), chr(92) + 'n')}'\n")


if __name__ == "__main__":
    main()
