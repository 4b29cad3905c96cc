-- Every table of tenant data: row-level security enabled and forced, one policy on the transaction's organizations.
-- The scalar sub-select is evaluated once a statement, not once a row. `array_position … is not null` rather than
-- `= any (…)`: the planner would take `= any` for a condition that an index can answer, and read all rows of an
-- organization by it instead of using the key that the statement names (docs/decisions/0009). What is written is checked
-- by the plain form, which is cheaper and is never planned with.

do $$
declare
  t text;
begin
  foreach t in array array[
    'payloads', 'jobs', 'job_steps', 'step_attempts', 'chunks', 'idempotency_keys', 'operations',
    'clinical_events', 'patients', 'patient_identifiers', 'patient_links', 'reviews', 'event_sightings',
    'findings', 'finding_evidence', 'issues', 'uploads', 'callbacks', 'callback_deliveries', 'webhook_replays',
    'sessions', 'audit_records'
  ] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I for all to chartgate_app
         using (array_position((select tenant_organizations()), organization_id) is not null)
         with check (organization_id = any ((select tenant_organizations())::uuid[]))', t);
  end loop;
  -- Lists over all organizations, on tables without clinical values.
  foreach t in array array['jobs', 'job_steps', 'step_attempts', 'chunks', 'operations', 'audit_records'] loop
    execute format('create policy platform_reads on %I for select to chartgate_platform using (true)', t);
  end loop;
end $$;
