-- Statistics that keep up with a bulk file. A table that has grown a thousandfold within a minute is planned as the small one
-- that PostgreSQL last looked at, where every index that begins with the organization costs the same: a look-up by full key
-- then reads all rows of the organization. Autovacuum comes by once a minute; this is called before each chunk and by the
-- sweeper. With the rights of the owner, because only the owner may analyze; it takes no argument and shows nothing.

create function keep_statistics() returns integer
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
  v_table text;
  v_count integer := 0;
begin
  -- One at a time: the others would wait for the same locks to do the same.
  if not pg_try_advisory_xact_lock(hashtextextended('chartgate.statistics', 0)) then
    return 0;
  end if;
  for v_table in
    select quote_ident(c.relname)
    from pg_class c
    where c.relnamespace = 'public'::regnamespace
      and c.relkind = 'r'
      and c.relowner = (select oid from pg_roles where rolname = current_user)
      and c.relpages < 16384
      and pg_relation_size(c.oid) / current_setting('block_size')::bigint > 4 * c.relpages + 32
  loop
    execute 'analyze ' || v_table;
    v_count := v_count + 1;
  end loop;
  return v_count;
end $$;
