-- Fan-out over chunks: what a job is cut into, and what became of each piece in each step (docs/bulk.md#chunks).

-- The plan. One row a piece, written before the fan-out; what became of it stands in chunk_steps.
alter table chunks
  drop column status,
  drop column output,
  drop column error_code,
  drop column finished_at,
  -- Lines that are not blank, or entries.
  add column lines bigint not null default 0,
  -- Lines (entries) that the validation left out: the steps behind it pass over them.
  add column rejected bigint[] not null default '{}';
grant delete on chunks to chartgate_app;

-- A piece's way through the steps with `each = "chunk"`: one row a piece and step that ended, of whatever round; chunk 0 is
-- the fan-out itself (its output is that of `open`), which is there while the step is fanned out or joined.
create table chunk_steps (
  organization_id uuid not null,
  job_id uuid not null,
  step smallint not null,
  chunk integer not null,
  round integer not null,
  status text not null,
  attempts smallint not null,
  started_at timestamptz,
  finished_at timestamptz not null,
  output jsonb,
  error_code text,
  error_class text,
  error_message text,
  worker_id uuid,
  primary key (organization_id, job_id, step, chunk),
  constraint chunk_steps_states check (
    status in ('succeeded', 'failed')
    and (status = 'failed') = (error_code is not null)
    and (error_class is null or error_class in ('transient', 'sender', 'ours'))
    and step between 0 and 99
    and chunk >= 0)
);
alter table chunk_steps enable row level security;
alter table chunk_steps force row level security;
create policy tenant on chunk_steps for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
create policy platform_reads on chunk_steps for select to chartgate_platform using (true);
grant select, insert, update, delete on chunk_steps to chartgate_app;
grant select on chunk_steps to chartgate_platform;
