-- Who is logged in to the console (docs/console.md). A browser holds a random token in a cookie; here stands its hash. A session
-- lives as its key does: it ends when the key is revoked or expires, after 15 minutes without a request, and after 12 hours in any case.
-- No row-level security, as with api_keys: it is looked up before the organization is known, and holds no clinical value.
create table console_sessions (
  token_sha256 bytea primary key check (length(token_sha256) = 32),
  key_id text not null references api_keys (id),
  created_at timestamptz not null default chartgate_now(),
  seen_at timestamptz not null default chartgate_now()
);
create index console_sessions_of_key on console_sessions (key_id);
grant select, insert, update, delete on console_sessions to chartgate_app;
