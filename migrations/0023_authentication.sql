-- Rotation of keys, secrets of webhook senders, and which webhooks were seen (docs/authentication.md).

-- A key that was rotated names its successor, and ends by itself after the overlap.
alter table api_keys add column replaced_by text references api_keys (id);

-- What webhooks are signed with. HMAC needs the secret itself, so it is sealed with a key outside the database
-- (src/secrets.rs) for exactly this row. A sender, named by what its requests carry in `Chartgate-Key`, has one secret, or
-- several while they are rotated. Under row-level security: the header names the organization, too, and who names
-- another one finds nothing.
create table webhook_secrets (
  organization_id uuid not null references organizations,
  id text not null check (id ~ '^[0-9a-f]{16}$'),
  sender_id text not null check (sender_id ~ '^[0-9a-f]{16}$'),
  name text not null default '',
  -- The label that separates the resource ids of two systems of one organization.
  source text not null default 'default' check (length(source) between 1 and 100),
  sealed_secret bytea not null,
  created_at timestamptz not null default chartgate_now(),
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  primary key (organization_id, id)
);
create index webhook_secrets_of_sender on webhook_secrets (organization_id, sender_id);
alter table webhook_secrets enable row level security;
alter table webhook_secrets force row level security;
create policy tenant on webhook_secrets for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, update on webhook_secrets to chartgate_app;

-- An id belongs to its sender, and to the bytes that it came with first. Nothing has written this table so far.
alter table webhook_replays drop constraint webhook_replays_pkey;
alter table webhook_replays
  add column sender_id text not null,
  add column body_sha256 bytea not null check (length(body_sha256) = 32),
  add primary key (organization_id, sender_id, webhook_id);
create index webhook_replays_by_age on webhook_replays (organization_id, seen_at);

-- Webhooks that were seen more than p_age_seconds ago are forgotten, at most p_limit of each organization a call. How many.
create function forget_webhooks(p_age_seconds double precision, p_limit integer) returns bigint
language plpgsql volatile as $$
declare
  v_before timestamptz := chartgate_now() - p_age_seconds * interval '1 second';
  v_organization uuid;
  v_gone bigint;
  v_count bigint := 0;
begin
  for v_organization in select id from organizations order by id loop
    perform set_config('app.organization', array[v_organization]::text, true);
    delete from webhook_replays w
    using (
      select sender_id, webhook_id from webhook_replays
      where organization_id = v_organization and seen_at < v_before
      order by seen_at
      limit p_limit) d
    where w.organization_id = v_organization and w.sender_id = d.sender_id and w.webhook_id = d.webhook_id;
    get diagnostics v_gone = row_count;
    v_count := v_count + v_gone;
  end loop;
  return v_count;
end $$;

-- How an actor's name says that it was authenticated.
create function authentication_of(p_actor text) returns text
language sql immutable as $$
  select case split_part(p_actor, ':', 1) when 'key' then 'api_key' when 'jwt' then 'jwt' when 'webhook' then 'webhook' else 'internal' end
$$;

-- submit_jobs as it is, but for this one word: it took every submitter for an API key.
do $$
declare
  v_old text := pg_get_functiondef('submit_jobs'::regproc);
  v_new text := replace(v_old, $q$'api_key'$q$, 'authentication_of(t.submitted_by)');
begin
  if v_new = v_old then
    raise exception 'submit_jobs no longer says ''api_key''';
  end if;
  execute v_new;
end $$;
