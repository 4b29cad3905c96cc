-- Tables without row-level security: ids and configuration only (listed in tests/it/tenancy.rs).

create table organizations (
  id uuid primary key,
  name text not null unique check (length(name) between 1 and 200),
  status text not null default 'active' check (status in ('active', 'paused')),
  -- At most this many of its jobs run at once, over all workers. Null: no cap.
  running_max integer check (running_max > 0),
  -- MRN systems, Athena's system, time zone, CORS (docs/api.md, organization settings).
  settings jsonb not null default '{}',
  created_at timestamptz not null default chartgate_now(),
  updated_at timestamptz not null default chartgate_now()
);
create index organizations_paused on organizations (id) where status = 'paused';
create index organizations_capped on organizations (id) where running_max is not null;

create table api_keys (
  id text primary key,
  -- Null only for the platform role.
  organization_id uuid references organizations,
  role text not null check (role in ('sender', 'reader', 'admin', 'platform')),
  name text not null default '',
  -- The `source` label that separates the resource ids of two systems of one organization.
  source text not null default 'default' check (length(source) between 1 and 100),
  secret_sha256 bytea not null check (length(secret_sha256) = 32),
  created_at timestamptz not null default chartgate_now(),
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  check ((role = 'platform') = (organization_id is null))
);
create index api_keys_by_organization on api_keys (organization_id, id);

create table workflow_definitions (
  name text not null,
  version integer not null check (version > 0),
  digest bytea not null check (length(digest) = 32),
  body text not null,
  registered_at timestamptz not null default chartgate_now(),
  primary key (name, version)
);

create table workers (
  id uuid primary key,
  host text not null,
  pid integer not null,
  roles text[] not null,
  program_version text not null,
  started_at timestamptz not null default chartgate_now(),
  last_seen_at timestamptz not null default chartgate_now(),
  in_flight integer not null default 0,
  steps_committed bigint not null default 0,
  stale_commits bigint not null default 0,
  leases_reaped bigint not null default 0,
  stopped_at timestamptz
);

grant select, insert, update on organizations, api_keys, workers to chartgate_app;
grant select, insert on workflow_definitions to chartgate_app;
grant delete on workers to chartgate_app;
grant select on organizations, workflow_definitions, workers to chartgate_platform;
