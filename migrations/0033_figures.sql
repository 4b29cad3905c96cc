-- What the console draws (docs/console.md, "Figures"): rounds of jobs by minute, counted behind the hot path from the audit
-- records, which every acceptance and end writes anyway. A range of transactions is counted once: `figures_position` says up to
-- which, and moves in the transaction that adds the counts. The organization 0 (platform) holds the sums over all.

create table job_figures (
  organization_id uuid not null,
  -- Minutes for two hours, then ten minutes for 26, then hours for 90 days.
  span_seconds integer not null check (span_seconds in (60, 600, 3600)),
  at timestamptz not null,
  workflow text not null,
  accepted bigint not null,
  retried bigint not null,
  succeeded bigint not null,
  with_issues bigint not null,
  failed bigint not null,
  cancelled bigint not null,
  expired bigint not null,
  -- First rounds of webhook and Athena jobs by their time from acceptance to their end, and to the start of their first step:
  -- one count a bucket (`engine::figures::BOUNDS_MS`).
  ended_in bigint[] not null,
  begun_in bigint[] not null,
  primary key (organization_id, span_seconds, at, workflow)
);
create index job_figures_by_age on job_figures (span_seconds, at);

-- What is in the queue, looked at by the same sweeper; organizations with an empty queue have no row.
create table queue_figures (
  organization_id uuid not null primary key,
  waiting bigint not null,
  running bigint not null,
  delayed bigint not null,
  blocked bigint not null,
  -- Lanes whose head waits in backoff while others wait behind it.
  lanes_held bigint not null,
  oldest_ready_at timestamptz,
  at timestamptz not null
);

create table figures_position (
  single boolean primary key default true check (single),
  -- All transactions up to this one are counted.
  until_xid bigint not null,
  -- What was committed before this instant is counted.
  counted_through timestamptz not null,
  counted_at timestamptz not null
);
insert into figures_position (until_xid, counted_through, counted_at)
select audit_position(pg_snapshot_xmin(pg_current_snapshot())) - 1, chartgate_now(), chartgate_now();

create function add_counts(bigint[], bigint[]) returns bigint[]
language sql immutable parallel safe
return (select array_agg(coalesce(a, 0) + coalesce(b, 0) order by n) from unnest($1, $2) with ordinality t(a, b, n));
create aggregate sum_counts(bigint[]) (sfunc = add_counts, stype = bigint[], initcond = '{}');

-- Foreseen for the console; nothing has written it: console_sessions (0032) took its place.
drop table sessions;

do $$
declare
  t text;
begin
  foreach t in array array['job_figures', 'queue_figures'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I for all to chartgate_app
         using (array_position((select tenant_organizations()), organization_id) is not null)
         with check (organization_id = any ((select tenant_organizations())::uuid[]))', t);
    execute format('create policy platform_reads on %I for select to chartgate_platform using (true)', t);
    execute format('grant select, insert, update, delete on %I to chartgate_app', t);
    execute format('grant select on %I to chartgate_platform', t);
  end loop;
end $$;
grant select, update on figures_position to chartgate_app;
grant select on figures_position to chartgate_platform;
