"""The tables of accounts, in the catalogue's database. Of passwords, sessions and tokens only hashes are here."""

from __future__ import annotations

from sqlalchemy import BigInteger, Enum, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from secondlook.cloud.accounts.roles import Role
from secondlook.cloud.catalogue.schema import Base

_Id = BigInteger().with_variant(Integer(), "sqlite")
_Role = Enum(
    Role,
    native_enum=False,
    create_constraint=True,
    length=16,
    values_callable=lambda members: [member.value for member in members],
    name="role",
)


class User(Base):
    """A removed user stays, so that nobody can take over the name that old verdicts carry."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[Role] = mapped_column(_Role)
    password_hash: Mapped[str] = mapped_column(String(255))  # Argon2id, PHC string; empty once removed
    created_ns: Mapped[int] = mapped_column(BigInteger)
    removed_ns: Mapped[int | None] = mapped_column(BigInteger)


class UserSession(Base):
    """One log-in of one browser."""

    __tablename__ = "user_sessions"

    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.name"), index=True)
    created_ns: Mapped[int] = mapped_column(BigInteger)
    seen_ns: Mapped[int] = mapped_column(BigInteger)  # when the person last did something, to the minute


class ApiToken(Base):
    """A token lets a program act for a user, with that user's role or less."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.name"), index=True)
    label: Mapped[str] = mapped_column(String(64))
    role: Mapped[Role] = mapped_column(_Role)
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_ns: Mapped[int] = mapped_column(BigInteger)
    expires_ns: Mapped[int | None] = mapped_column(BigInteger)
    revoked_ns: Mapped[int | None] = mapped_column(BigInteger)
    # What it is for, with commas between; empty: for all that its role may.
    scopes: Mapped[str] = mapped_column(String(64), server_default="")
