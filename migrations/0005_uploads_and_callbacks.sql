-- Presigned uploads, the watcher's record of ingested objects, and outbound callbacks.

create table uploads (
  organization_id uuid not null references organizations,
  id uuid not null,
  job_id uuid not null,
  bucket text not null,
  storage_key text not null,
  content_type text not null,
  declared_size_bytes bigint,
  declared_sha256 bytea,
  filename text,
  expires_at timestamptz not null,
  created_at timestamptz not null,
  primary key (organization_id, id)
);

-- Ids only, no row-level security: the watcher works before it knows the organization.
create table ingested_objects (
  bucket text not null,
  storage_key text not null,
  generation text not null,
  organization_id uuid,
  job_id uuid,
  status text not null check (status in ('ingested', 'refused')),
  reason text,
  source text not null,
  first_seen_at timestamptz not null,
  primary key (bucket, storage_key, generation)
);

create table callbacks (
  organization_id uuid not null references organizations,
  id uuid not null,
  url text not null,
  status text not null check (status in ('active', 'disabled')),
  created_at timestamptz not null,
  primary key (organization_id, id)
);

create table callback_deliveries (
  organization_id uuid not null,
  id uuid not null,
  callback_id uuid not null,
  job_id uuid not null,
  attempt integer not null,
  outcome text not null check (outcome in ('delivered', 'failed')),
  response_status integer,
  at timestamptz not null,
  primary key (organization_id, id)
);

create table webhook_replays (
  organization_id uuid not null,
  webhook_id text not null,
  seen_at timestamptz not null,
  primary key (organization_id, webhook_id)
);

-- Console log-ins.
create table sessions (
  organization_id uuid not null,
  token_sha256 bytea not null check (length(token_sha256) = 32),
  api_key_id text not null,
  created_at timestamptz not null,
  last_seen_at timestamptz not null,
  primary key (organization_id, token_sha256)
);

grant select, insert, update on uploads, callbacks to chartgate_app;
grant select, insert on ingested_objects, callback_deliveries to chartgate_app;
grant select, insert, delete on webhook_replays to chartgate_app;
grant select, insert, update, delete on sessions to chartgate_app;
