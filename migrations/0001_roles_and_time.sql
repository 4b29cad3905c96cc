-- Roles, time, and the tenant context that row-level security reads.
--
-- chartgate_app       the program's working role: owns nothing, bypasses nothing.
-- chartgate_platform  lists across organizations: SELECT policies on tables without clinical values.
-- Roles belong to the whole cluster, so another database may have made them already.

do $$
begin
  if not exists (select from pg_roles where rolname = 'chartgate_app') then
    -- noinherit: the platform policies must not apply before an explicit `set local role`.
    create role chartgate_app login noinherit nosuperuser nocreatedb nocreaterole nobypassrls;
  end if;
  if not exists (select from pg_roles where rolname = 'chartgate_platform') then
    create role chartgate_platform nologin nosuperuser nocreatedb nocreaterole nobypassrls;
  end if;
exception when duplicate_object or unique_violation then
  null; -- another database's migration created them at the same instant
end $$;

do $$
begin
  grant chartgate_platform to chartgate_app;
exception when unique_violation or sqlstate 'XX000' then
  null; -- "tuple concurrently updated": another database's migration granted it at the same instant
end $$;

grant usage on schema public to chartgate_app, chartgate_platform;

-- One offset in microseconds. Only test databases hold a row; the manual clock of the tests moves it.
create table clock_offset (
  single boolean primary key default true check (single),
  offset_us bigint not null
);
grant select on clock_offset to chartgate_app;

-- The only source of time in SQL: leases, backoff and every stored timestamp go by this one clock.
-- PL/pgSQL, because it keeps its plan: a function in SQL that cannot be inlined is parsed and planned at every call.
create function chartgate_now() returns timestamptz
language plpgsql volatile as $$
begin
  return clock_timestamp() + coalesce((select offset_us from clock_offset), 0) * interval '1 microsecond';
end $$;

-- The organizations that the current transaction works for. One for a request or a step; all organizations
-- of the batch for a group commit of the engine (docs/decisions/0004). Empty or unset: no rows at all.
create function tenant_organizations() returns uuid[]
language sql stable as $$
  select coalesce(nullif(current_setting('app.organization', true), ''), '{}')::uuid[]
$$;

-- Refuses UPDATE, DELETE and TRUNCATE on append-only tables, whoever asks.
create function refuse_change() returns trigger
language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'insufficient_privilege';
end $$;
