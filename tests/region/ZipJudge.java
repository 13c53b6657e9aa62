import java.io.FileInputStream;
import java.io.BufferedInputStream;
import java.io.InputStream;
import java.util.Collections;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipInputStream;

/** Reads an archive whole in both ways that Java has, and prints how many entries each found. */
public final class ZipJudge {
    private static final byte[] BUFFER = new byte[1 << 20];

    public static void main(String[] arguments) throws Exception {
        int byDirectory = 0;
        try (ZipFile file = new ZipFile(arguments[0])) {
            for (ZipEntry entry : Collections.list(file.entries())) {
                try (InputStream content = file.getInputStream(entry)) {
                    check(entry, content);
                }
                byDirectory++;
            }
        }
        int inOrder = 0;
        InputStream raw = new BufferedInputStream(new FileInputStream(arguments[0]), 1 << 20);
        try (ZipInputStream stream = new ZipInputStream(raw)) {
            for (ZipEntry entry; (entry = stream.getNextEntry()) != null; inOrder++) {
                check(entry, stream);
            }
        }
        System.out.println(byDirectory + " " + inOrder);
    }

    private static void check(ZipEntry entry, InputStream content) throws Exception {
        CRC32 sum = new CRC32();
        for (int read; (read = content.read(BUFFER)) >= 0; ) {
            sum.update(BUFFER, 0, read);
        }
        if (sum.getValue() != entry.getCrc()) {
            throw new IllegalStateException(entry.getName());
        }
    }
}
