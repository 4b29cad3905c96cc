-- What waits for a callback that is disabled waits for an administrator, not for us: the gauges tell the two apart, and are read over
-- all organizations (docs/operations.md). Neither URLs nor secrets may be read so.
create policy platform_reads on callbacks for select to chartgate_platform using (true);
grant select (organization_id, id, status) on callbacks to chartgate_platform;
