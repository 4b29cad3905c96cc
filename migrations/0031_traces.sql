-- Where the steps of a job belong in a trace (docs/traces.md). A table of its own, so that the queue and what claims it stay as
-- they are: it is written and read only by processes that send spans, and holds rows of sampled traces only.
create table job_traces (
  organization_id uuid not null,
  job_id uuid not null,
  -- The round that the request of this trace began.
  round integer not null check (round > 0),
  -- Trace id (16 bytes), id of the span that began the round (8), flags (1): random numbers, nothing of a patient's.
  context bytea not null check (length(context) = 25),
  primary key (organization_id, job_id, round)
);
alter table job_traces enable row level security;
alter table job_traces force row level security;
create policy tenant on job_traces for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, delete on job_traces to chartgate_app;

-- Keep the contexts of rounds that begin in this transaction; of several organizations in a batch.
create function note_traces(p_organization uuid[], p_job uuid[], p_round integer[], p_context bytea[])
returns void
language plpgsql volatile as $$
begin
  perform set_config('app.organization', (select array_agg(distinct o) from unnest(p_organization) o)::text, true);
  insert into job_traces (organization_id, job_id, round, context)
  select t.o, t.job, t.round, t.context
  from unnest(p_organization, p_job, p_round, p_context) t(o, job, round, context)
  order by t.o, t.job
  on conflict do nothing;
end $$;

-- For claimed rows: the context of the round, or of the last one before it that has any; and the first one, if that is another.
-- Rows without any are left out.
create function traces_of(p_organization uuid[], p_job uuid[], p_round integer[])
returns table (ordinal integer, context bytea, first_context bytea)
language plpgsql volatile as $$
#variable_conflict use_column
begin
  perform set_config('app.organization', (select array_agg(distinct o) from unnest(p_organization) o)::text, true);
  return query
  select t.n::integer, l.context, nullif(f.context, l.context)
  from unnest(p_organization, p_job, p_round) with ordinality t(o, job, round, n)
  cross join lateral (
    select x.context from job_traces x
    where x.organization_id = t.o and x.job_id = t.job and x.round <= t.round
    order by x.round desc limit 1) l
  cross join lateral (
    select x.context from job_traces x
    where x.organization_id = t.o and x.job_id = t.job
    order by x.round limit 1) f;
end $$;
